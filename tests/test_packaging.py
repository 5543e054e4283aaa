"""The package can be installed as described: dependency ranges, exact pins, entry point, make targets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import hyprl_jax

PYTHONS = ("3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def pins(repository: Path, python: str) -> dict[str, Version]:
    """Canonical name -> version of a constraints file; every line must be a plain pin."""
    lines = (repository / "constraints" / f"python{python}.txt").read_text().splitlines()
    plain = [line for line in lines if line and not line.startswith("#")]
    for line in plain:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line), line
    found = {
        canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in plain)
    }
    assert len(found) == len(plain), "a package is pinned twice"
    return found


def test_requirements_are_those_of_the_package(repository: Path, project: dict) -> None:
    lines = (repository / "requirements.txt").read_text().splitlines()
    written = sorted(line for line in lines if line and not line.startswith("#"))
    assert written == sorted(project["project"]["dependencies"])


@pytest.mark.parametrize("python", PYTHONS)
def test_pins_lie_in_the_ranges(repository: Path, project: dict, python: str) -> None:
    pinned = pins(repository, python)
    extras = project["project"]["optional-dependencies"]
    for text in project["project"]["dependencies"] + extras["test"] + extras["baselines"]:
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned for Python {python}"
        assert version in requirement.specifier, (
            f"{requirement.name} {version} is outside {requirement.specifier}"
        )


def test_pins_are_complete(repository: Path, project: dict) -> None:
    """Whatever a dependency needs on this Python, and so on, is pinned too."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python not in PYTHONS:
        pytest.skip(f"no pins are kept for Python {python}")
    pinned = pins(repository, python)
    waiting = [Requirement(text) for text in project["project"]["dependencies"]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{requirement.name} is needed but not pinned for Python {python}"
        for extra in ["", *requirement.extras]:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            needed = [Requirement(text) for text in metadata.requires(name) or []]
            waiting += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": extra})]


def test_declared_pythons_have_pins(repository: Path, project: dict) -> None:
    prefix = "Programming Language :: Python :: "
    declared = [c.removeprefix(prefix) for c in project["project"]["classifiers"] if c.startswith(prefix)]
    kept = sorted(path.stem.removeprefix("python") for path in (repository / "constraints").glob("*.txt"))
    assert sorted(declared) == kept == sorted(PYTHONS)
    assert Version(project["project"]["requires-python"].removeprefix(">=")) == Version(PYTHONS[0])


def test_entry_point_and_version(repository: Path, project: dict) -> None:
    from hyprl_jax.__main__ import main

    assert project["project"]["scripts"] == {"hyprl": "hyprl_jax.__main__:main"}
    assert callable(main)
    assert Version(hyprl_jax.__version__).release >= (0, 1)
    changes = (repository / "CHANGELOG.md").read_text()
    assert f"## {hyprl_jax.__version__}" in changes, "say in CHANGELOG.md what this version brings"
    assert (repository / "hyprl_jax" / "py.typed").is_file()
    assert "Apache License" in (repository / "LICENSE").read_text()


@pytest.mark.parametrize("target", ["run", "test", "test-all", "bench", "clean"])
def test_make_targets_exist(repository: Path, tmp_path: Path, target: str) -> None:
    command = ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"]
    plan = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    if target in ("run", "test"):
        assert "scripts/setup_env.sh" in plan.stdout


def test_continuous_integration_runs_the_test_command(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")
    assert "make run" in (repository / "README.md").read_text()
    assert "make test" in (repository / "README.md").read_text()


def test_missing_python_is_said_in_one_line(repository: Path, tmp_path: Path) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\necho 'not installed' >&2\nexit 127\n")
    shim.chmod(0o755)
    command = [str(repository / "scripts" / "setup_env.sh"), str(tmp_path / "venv")]
    result = subprocess.run(command, env=os.environ | {"PYTHON": str(shim)}, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no Python 3.11 or newer was found")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "venv").exists()
