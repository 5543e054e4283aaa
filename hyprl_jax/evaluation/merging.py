"""Several evaluations of the same tasks as one: methods that were played at different times, side by side.

Each folder is read with distrust; tasks, trials, split, folds and the content of the collections must be the
same in all. Seeds are compared as in any evaluation: the k-th of one method with the k-th of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.report import read_evaluation
from hyprl_jax.evaluation.summary import summarize

_SAME = ("collection", "split", "fold", "tasks", "trials")


def merge_evaluations(folders: Sequence[Path | str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Trajectories and summary of all methods in the evaluation folders, in their order.

    Raises InputError where a folder is no evaluation, two do not fit together, or a method stands in two.
    """
    if not folders:
        raise InputError("nothing to merge: name at least one evaluation folder")
    parts = [(str(folder), *read_evaluation(folder)) for folder in folders]
    first_name, _, first = parts[0]
    home: dict[str, str] = {}
    for name, _, summary in parts:
        for key in _SAME:
            if summary[key] != first[key]:
                raise InputError(f"{first_name} and {name} differ in {key!r}: merge evaluations of one study")
        if summary["tests"]["interval"]["over"] != "tasks":
            raise InputError(
                f"{name}: has intervals over groups; merge evaluations with intervals over tasks"
            )
        for method in summary["methods"]:
            if method in home:
                raise InputError(f"the method {method!r} stands in {home[method]} and in {name}")
            home[method] = name
    frame = pd.concat([frame for _, frame, _ in parts], ignore_index=True)
    failures = [failure for _, _, summary in parts for failure in summary.get("failures", [])]
    origin = _origin([summary["provenance"] for _, _, summary in parts if "provenance" in summary])
    merged = summarize(frame, first["split"], first["fold"], failures=failures, provenance=origin)
    return frame, merged


def _origin(origins: list[dict[str, Any]]) -> dict[str, Any] | None:
    """One provenance out of several; what differs stands side by side."""
    if not origins:
        return None
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for origin in origins for key in origin):
        values = [origin[key] for origin in origins if key in origin]
        if key == "collections":
            merged[key] = _same_content(values)
        elif key == "versions":
            merged[key] = _side_by_side(values)
        elif key == "seeds":
            merged[key] = list(dict.fromkeys(seed for value in values for seed in value))
        elif all(value == values[0] for value in values):
            merged[key] = values[0]
        else:
            merged[key] = "; ".join(dict.fromkeys(str(value) for value in values))
    return merged


def _same_content(values: list[dict[str, str]]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for value in values:
        for name, content in value.items():
            if merged.setdefault(name, content) != content:
                raise InputError(
                    f"the collection {name!r} has changed between the evaluations: play them anew"
                )
    return merged


def _side_by_side(values: list[dict[str, str]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for value in values:
        for name, text in value.items():
            if text not in found.setdefault(name, []):
                found[name].append(text)
    return {name: ", ".join(texts) for name, texts in found.items()}
