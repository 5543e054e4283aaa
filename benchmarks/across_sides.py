"""Who is played and who trains when one collection is held out and no source dataset may be on both sides.

Groups are compared across collections by name, and by `SAME`, as public collections name one source
differently. Every choice among groups is made by the SHA-256 of their names, so that it is the same on every
machine and all held-out collections that share groups play the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import Split, TaskTables

SPLIT = "the other collections"  # a name that stands for no split: the sides are those of `sides`
VALIDATION = 0.2  # share of the groups that train which chooses the best policy
SAME = (
    ("breast_cancer", "wdbc"),
    ("diabetes", "pima-diabetes"),
    ("adult", "A9A", "126025"),
    ("W8A", "webpages"),
    ("ijcnn1", "ijcnn1-binary"),
    ("credit-g", "german-numer", "167161"),
    ("australian-credit", "167104"),
    ("chess", "167149"),
    ("covtype-binary", "7593"),
    ("shuttle", "146212"),
    ("phoneme", "167190"),
    ("vehicle", "167168"),
    ("car", "189905"),
    ("segment", "189906"),
)
"""Names under which public collections have groups of one source; numbers are OpenML tasks (LCBench)."""


class Sides(NamedTuple):
    """Who is played and who trains when a collection is held out."""

    played: tuple[str, ...]
    """Tasks of the held-out collection, in its order."""
    left_out: int
    """How many of its tasks are not played because their group trains."""
    splits: dict[str, Split]
    """The training and validation tasks of each other collection that has any; nobody is tested there."""
    not_trained: int
    """How many tasks of the others do not train because their group is played."""

    @property
    def trained(self) -> dict[str, int]:
        """How many tasks of each other collection train or validate."""
        return {name: len(split.train) + len(split.validation) for name, split in self.splits.items()}


def source(group: str) -> str:
    """One name for all groups that `SAME` says are of one source."""
    return next((names[0] for names in SAME if group in names), group)


def shuffled(groups: Iterable[str], key: str) -> list[str]:
    """Groups in an order that depends on their names and the key alone."""
    return sorted(set(groups), key=lambda group: hashlib.sha256(f"{key}\0{group}".encode()).digest())


def sides(held: str, tables: Mapping[str, TaskTables], shared: float, most: int) -> Sides:
    """The sides with `held`, one of `tables` by name, held out; InputError if one of them is empty.

    A share `shared` of the groups that it has in common with others is played and does not train; the rest
    train and are not played. At most `most` tasks are played (0: all), drawn by a fixed seed."""
    sources = {name: [source(group) for group in one.groups] for name, one in tables.items()}
    theirs = {group for name in sources if name != held for group in sources[name]}
    common_ones = shuffled(theirs & set(sources[held]), "played")
    played_groups = set(common_ones[: round(shared * len(common_ones))])
    trained = shuffled(theirs - played_groups, "validation")
    if len(trained) < 2:
        raise InputError(f"without {held!r} there are {len(trained)} groups to train on: add a collection")
    validation = set(trained[: max(1, round(VALIDATION * len(trained)))])
    splits, not_trained = {}, 0
    for name, groups in sources.items():
        if name == held:
            continue
        tasks = list(zip(tables[name].tasks, groups, strict=True))
        train = tuple(task for task, group in tasks if group not in played_groups | validation)
        chosen = tuple(task for task, group in tasks if group in validation)
        not_trained += len(tasks) - len(train) - len(chosen)
        if train or chosen:
            splits[name] = Split(SPLIT, 0, train, chosen, ())
    own = list(zip(tables[held].tasks, sources[held], strict=True))
    possible = [task for task, group in own if group not in set(trained)]
    if not possible:
        raise InputError(
            f"all {len(own)} tasks of {held!r} are of datasets that other collections have too: nothing is "
            "left to play; add --shared 0.5 to play half of these and train on the other half"
        )
    left_out = len(own) - len(possible)
    if 0 < most < len(possible):
        drawn = np.random.default_rng(0).choice(len(possible), most, replace=False)
        possible = [possible[place] for place in sorted(drawn)]
    return Sides(tuple(possible), left_out, splits, not_trained)
