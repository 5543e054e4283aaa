"""When a hyperparameter of a define-by-run study is active, inferred from which trials had it.

A hyperparameter that only some finished trials had is explained by a categorical or whole-numbered one
whose values in the trials with it differ from those in the trials without it: `momentum` where `optimizer`
was "sgd", `units_2` where `layers` was greater than 2. If no single one explains it, two together may; else
it is optional. Every further trial can refute an explanation, so that a wrong one does not last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hyprl_jax.runtime import Condition, Parameter, when

_MOST_VALUES = 64  # of a hyperparameter that may explain others
_MOST_PAIRED = 12  # hyperparameters that are tried in pairs


class Row(NamedTuple):
    """One finished trial."""

    codes: Mapping[str, float]
    """Numbers as they are and choices as their index, in the order of suggestion; NaN: had, but unknown."""
    whole: bool
    """Whether the trial ran to its end, so that what it did not have is inactive."""


class _Explanation(NamedTuple):
    rank: tuple[float, int]
    """The smaller, the more plausible."""
    condition: Condition
    admitted: frozenset[int]
    """Rows without the hyperparameter for which the condition holds nevertheless."""


def infer_conditions(
    rows: Sequence[Row], parameters: Mapping[str, Parameter]
) -> tuple[dict[str, Condition], set[str]]:
    """Conditions by hyperparameter, and those that are optional as nothing explains them.

    Values of a parent that no trial with the hyperparameter had do not make it active; of a whole-numbered
    parent, those between the trials with it and the trials without it do.
    """
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    for row in rows:
        for name in row.codes:
            places.setdefault(name, len(places))
            counts[name] = counts.get(name, 0) + 1
    conditions: dict[str, Condition] = {}
    optional: set[str] = set()
    decided: list[str] = []
    # What more trials had comes first and what explains must have been decided: no circles.
    for child in sorted(counts, key=lambda name: (-counts[name], places[name])):
        without = {index for index, row in enumerate(rows) if row.whole and child not in row.codes}
        if without:
            having = [row for row in rows if child in row.codes]
            found = _explain(
                child, having, {index: rows[index] for index in without}, decided, parameters, places
            )
            if found is None:
                optional.add(child)
            else:
                conditions[child] = found
        decided.append(child)
    return conditions, optional


def _explain(
    child: str,
    having: Sequence[Row],
    without: Mapping[int, Row],
    decided: Sequence[str],
    parameters: Mapping[str, Parameter],
    places: Mapping[str, int],
) -> Condition | None:
    """The most plausible condition that tells the two kinds of trials apart."""
    options = []
    for parent in decided:
        values = parameters[parent].upper - parameters[parent].lower + 1
        if parameters[parent].kind in ("categorical", "integer") and values <= _MOST_VALUES:
            # The fewer values, the less it explains by chance; and what is asked right before the child is
            # more likely to be what its `if` looks at.
            apart = places[child] - places[parent]
            rank = (values, apart if apart > 0 else len(places) - apart)
            option = _separate(parameters[parent], rank, having, without)
            if option is not None:
                options.append(option)
    options.sort(key=lambda option: option.rank)
    for option in options:
        if not option.admitted:
            return option.condition
    for one, other in itertools.combinations(options[:_MOST_PAIRED], 2):
        if not one.admitted & other.admitted:
            return Condition("and", parts=(one.condition, other.condition))
    return None


def _separate(
    parent: Parameter, rank: tuple[float, int], having: Sequence[Row], without: Mapping[int, Row]
) -> _Explanation | None:
    """The narrowest condition on `parent` that holds for all rows `having` the hyperparameter; None if it
    excludes no row."""
    inside = {row.codes.get(parent.name, math.nan) for row in having}
    if any(math.isnan(code) for code in inside):
        return None
    outside = {index: row.codes.get(parent.name, math.nan) for index, row in without.items()}
    known = {code for code in outside.values() if not math.isnan(code)}
    if not known - inside:
        return None
    if parent.is_number and max(known) < min(inside):
        condition = Condition("greater", parent.name, (_label(parent, max(known)),))
    elif parent.is_number and min(known) > max(inside):
        condition = Condition("less", parent.name, (_label(parent, min(known)),))
    else:
        condition = when(parent.name, [_label(parent, code) for code in sorted(inside)])
    return _Explanation(rank, condition, frozenset(i for i, code in outside.items() if code in inside))


def _label(parameter: Parameter, code: float) -> Any:
    return int(code) if parameter.is_number else parameter.choices[int(code)]
