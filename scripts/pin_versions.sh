#!/usr/bin/env bash
# Writes constraints/pythonX.Y.txt: the exact versions that pip resolves today for the package, its
# test tools and the libraries that it is compared with (what PyTorch needs on a GPU is left to PyTorch).
#   scripts/pin_versions.sh python3.12 [python3.13 ...]
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "usage: scripts/pin_versions.sh PYTHON [PYTHON ...]" >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch" build' EXIT
for python in "$@"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -m venv "$scratch/$version"
    "$scratch/$version/bin/python" -m pip install --quiet '.[test,baselines,export,ray]'
    {
        echo "# Exact versions tested with Python $version; renew with scripts/pin_versions.sh and run the tests."
        "$scratch/$version/bin/python" -m pip freeze --exclude hyprl-jax |
            sed '/^\(nvidia-\|cuda-\|triton==\)/d; s/+cpu$//'
    } >"$scratch/pins.txt"
    if grep -vE '^(#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+)$' "$scratch/pins.txt"; then
        echo "these lines are no plain name==version pins; nothing was written for Python $version" >&2
        exit 1
    fi
    mv "$scratch/pins.txt" "constraints/python$version.txt"
    echo "wrote constraints/python$version.txt"
done
