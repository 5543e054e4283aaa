#!/usr/bin/env bash
# Makes a virtual environment with the package (editable) and the exact versions of constraints/pythonX.Y.txt.
#   scripts/setup_env.sh VENV [EXTRAS]        EXTRAS as in pyproject.toml, for example `test`
#   PYTHON=/path/to/python scripts/setup_env.sh .venv
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: scripts/setup_env.sh VENV [EXTRAS]}
extras=${2:-}

# A command may exist and still not run (version-manager shims), be too old, or lack the venv module: try each one.
usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate without_venv=
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python python3.14}; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
        if recent "$candidate"; then without_venv=$candidate; fi
    done
    if [ -n "$without_venv" ]; then
        echo "error: $without_venv cannot make virtual environments: install its venv package" \
            "(Debian and Ubuntu: apt install python3-venv)" >&2
    else
        echo "error: no Python 3.11 or newer was found${PYTHON:+ at $PYTHON}: install one (https://www.python.org)," \
            "or name it: make PYTHON=/path/to/python3.12 ..." >&2
    fi
    return 1
}

if ! recent "$venv/bin/python"; then
    python=$(find_python)
    echo "making the virtual environment $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
pins=constraints/python$version.txt
if [ -f "$pins" ]; then
    constraint=(--constraint "$pins")
    echo "installing the versions of $pins (one to three minutes the first time)"
else
    constraint=()
    echo "no tested versions for Python $version: installing the newest within the ranges of pyproject.toml"
fi
"$venv/bin/python" -m pip install -qq --disable-pip-version-check "${constraint[@]}" \
    --editable ".${extras:+[$extras]}"
