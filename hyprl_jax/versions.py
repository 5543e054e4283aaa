"""What took part in a run: versions of Python and packages, the machine, the commit of this package."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import hyprl_jax

__all__ = ["collect_versions"]

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "chex",
    "orbax-checkpoint",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "ConfigSpace",
)


def collect_versions() -> dict[str, Any]:
    """Names and versions, all of them strings, numbers or None, in an order that is pleasant to read."""
    import jax

    devices = jax.devices()
    return {
        "hyprl_jax": hyprl_jax.__version__,
        "git_commit": _git_commit(Path(hyprl_jax.__file__).resolve().parent.parent),
        "python": platform.python_version(),
        **{name: _version_of(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
    }


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit(folder: Path) -> str | None:
    """The commit of the checkout in `folder`, with `+changes` if there are any; None if it is no checkout."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--", "hyprl_jax") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
