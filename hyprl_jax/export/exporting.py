"""Writing an exported policy: every file beside its place first, read back, and then moved there as a whole.

Whoever looks at the folder sees a whole policy or none, however the program ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.export.card import model_card
from hyprl_jax.export.description import describe
from hyprl_jax.export.onnx_graph import onnx_step
from hyprl_jax.export.selection import Selection, select
from hyprl_jax.export.stablehlo import stablehlo_step
from hyprl_jax.runtime.policy import load_policy
from hyprl_jax.sealing import flush_folder

_MOST_NAME = 200
_INFORMED = ("learned", "mean")  # priors of the surrogate that make use of earlier tasks

__all__ = ["ExportSummary", "export_policy"]


class ExportSummary(NamedTuple):
    """What an export has written."""

    policy: Path
    """The folder."""
    name: str
    fold: int
    seeds: tuple[int, ...]
    members: int
    parameters: int
    """Weights of one member."""
    collections: tuple[str, ...]
    validation_regret: tuple[float, ...] | None
    """Of each member; None if the run does not tell."""
    files: dict[str, int]
    """Bytes of each file."""


def export_policy(
    run: Path | str,
    out: Path | str,
    *,
    fold: int | None = None,
    seeds: Sequence[int] | None = None,
    name: str | None = None,
    licence: str | None = None,
    prior: bool = True,
) -> ExportSummary:
    """Writes the policy of a run as the folder `out`, which appears whole or not at all.

    Args:
        run: the run's folder.
        out: a folder that does not exist yet, or is empty.
        fold: which fold of the run; may be left out if it has only one.
        seeds: which seeds become members of the ensemble; all by default.
        name: of the policy; by default that of the folder.
        licence: of the weights, in words; not stated by default.
        prior: whether the known tasks go along, so that the policy starts warm in the spaces it knows (those
            of a policy that was trained for cold starts never do).

    Raises:
        InputError: nothing to export, a choice is wanted, or `out` cannot be written.
        MissingExtraError: onnx or flatbuffers are not installed.
    """
    out = Path(out).expanduser().absolute()
    name = out.name if name is None else name
    if not 1 <= len(name) <= _MOST_NAME or not name.isprintable():
        raise InputError(f"the name of a policy is one line of 1 to {_MOST_NAME} characters: choose another")
    _check_target(out)
    chosen = select(Path(run), fold, seeds)
    contents = _contents(chosen, name, licence, prior)
    _write(out, contents)
    weights = chosen.weights()
    return ExportSummary(
        policy=out,
        name=name,
        fold=chosen.fold,
        seeds=chosen.seeds,
        members=len(chosen.seeds),
        parameters=sum(array[0].size for array in weights.values()),
        collections=tuple(known.name for known in chosen.known),
        validation_regret=chosen.validation,
        files={file: len(content) for file, content in contents.items()},
    )


def _contents(chosen: Selection, name: str, licence: str | None, prior: bool) -> dict[str, bytes]:
    """The files by name, `policy.json` with the sizes and hashes of those that it is used with."""
    from safetensors.numpy import save

    weights = chosen.weights()
    about = {"name": name, "licence": licence or "not stated", "described in": "policy.json"}
    arrays: dict[str, np.ndarray] = {}
    for known in chosen.known if prior and chosen.config.surrogate.prior in _INFORMED else ():
        tasks = known.earlier_tasks()._asdict().items()
        there = {part: array for part, array in tasks if array is not None}
        arrays |= {f"{known.name}/{part}": np.ascontiguousarray(array) for part, array in there.items()}
    contents = {"weights.safetensors": save(weights)}
    if arrays:
        contents["prior.safetensors"] = save(arrays)
    contents["policy.onnx"] = onnx_step(chosen.architecture, weights, about).SerializeToString(
        deterministic=True
    )
    contents["policy.stablehlo"] = bytes(stablehlo_step(chosen.config.network, chosen.params))
    prints = {
        file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for file, content in contents.items()
    }
    facts = describe(chosen, name, licence, prints)
    return {
        "policy.json": _json(facts),
        **contents,
        "MODEL_CARD.md": model_card(facts).encode(),
    }


def _json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _check_target(out: Path) -> None:
    """InputError unless `out` may become the folder of a policy."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} is no folder: name one that does not exist yet")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: name a new folder, or remove what is there")


def _write(out: Path, contents: dict[str, bytes]) -> None:
    part = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        part.chmod(0o755)
        for file, content in contents.items():
            with open(part / file, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        load_policy(part)  # what cannot be read back is not handed out
        flush_folder(part)
        os.rename(part, out)  # takes the place of an empty folder, never of a full one
        flush_folder(out.parent)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
