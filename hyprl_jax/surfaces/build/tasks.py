"""The training tasks of the recipes: a source of rows, what was derived from it, and fixed training and
validation rows.

`TASKS` is the catalogue, `load_task(name, seed)` makes one of them. Every derivation is listed in the task's
own description, so the card of a collection can print it. The group of a task is the name of its source.

Rows are split before anything is learned from them. Label noise touches training rows only; validation labels
stay clean. Sources with few rows are split several times, and a task's objective is the mean over these
splits: the values are finer and less of a lottery.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hyprl_jax.surfaces.build.sources import SOURCES, draw, stream

VALIDATION_ROWS = 800


@dataclass(frozen=True)
class TaskSpec:
    """One task: the source and, in the order of application, what is derived from it.

    classes: keep only these labels. bins: classes by quantiles of a real target. against_rest: this label
    against all others. features: keep this share of the columns. noise_features: add so many standard normal
    columns. label_noise: share of the training labels replaced by another class. rows: training rows. splits:
    number of splits.
    """

    name: str
    source: str
    classes: tuple[int, ...] = ()
    bins: int = 0
    against_rest: int | None = None
    features: float = 1.0
    noise_features: int = 0
    label_noise: float = 0.0
    rows: int = 384
    splits: int = 1

    def describe(self) -> str:
        """The derivations in words."""
        parts = [f"classes {', '.join(map(str, self.classes))}"] if self.classes else []
        parts += [f"{self.bins} classes by quantiles of the target"] if self.bins else []
        parts += [f"class {self.against_rest} against the rest"] if self.against_rest is not None else []
        parts += [f"{self.features:.0%} of the columns"] if self.features < 1 else []
        parts += [f"{self.noise_features} added noise columns"] if self.noise_features else []
        parts += [f"{self.label_noise:.0%} wrong training labels"] if self.label_noise else []
        parts += [f"{self.rows} training rows"]
        parts += [f"mean of {self.splits} splits"] if self.splits > 1 else []
        return "; ".join(parts)


@dataclass(frozen=True)
class Split:
    """Row numbers of one split, `[N_train]` and `[N_validation]` int64, with no row in common."""

    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True)
class TaskData:
    """A task ready for training: features `[N, D]`, clean and training labels `[N]` in `0..classes-1`, its
    splits.
    """

    name: str
    group: str
    features: np.ndarray
    labels: np.ndarray
    training_labels: np.ndarray
    classes: int
    splits: tuple[Split, ...]


def _tasks(source: str, **variants: dict) -> list[TaskSpec]:
    return [TaskSpec(f"{source}-{variant}", source, **options) for variant, options in variants.items()]


def _catalogue() -> list[TaskSpec]:
    small = {"rows": 48, "splits": 8}
    tasks = _tasks(
        "iris",
        noisy={**small, "label_noise": 0.25},
        sepals={**small, "features": 0.5},
    )
    tasks += _tasks("wine", noisy={**small, "label_noise": 0.3}, quarter={**small, "features": 0.25})
    tasks += _tasks(
        "breast_cancer",
        noisy={"rows": 192, "splits": 3, "label_noise": 0.25},
        sixth={"rows": 192, "splits": 4, "features": 0.17},
        few={"rows": 48, "splits": 4, "noise_features": 20},
    )
    tasks += _tasks(
        "diabetes",
        halves={"bins": 2, "rows": 192, "splits": 4},
        thirds={"bins": 3, "rows": 192, "splits": 4},
        columns={"bins": 2, "rows": 96, "splits": 4, "features": 0.5, "noise_features": 5},
    )
    tasks += _tasks(
        "digits",
        noisy={"label_noise": 0.3},
        similar={"classes": (3, 5, 8, 9), "rows": 96, "splits": 2, "label_noise": 0.1},
        eight={"against_rest": 8, "rows": 192, "label_noise": 0.05},
        columns={"features": 0.25},
        few={"classes": (0, 1, 2, 4, 6, 7), "rows": 48, "splits": 2, "features": 0.5},
    )
    tasks += _tasks(
        "china", height={"bins": 4}, noisy={"bins": 2, "rows": 192, "label_noise": 0.2, "features": 0.7}
    )
    tasks += _tasks("flower", column={"bins": 3}, few={"bins": 5, "rows": 192, "features": 0.6})
    tasks += _generator_tasks()
    return tasks


def _generator_tasks() -> list[TaskSpec]:
    few, middle = {"rows": 96}, {"rows": 192}
    tasks = _tasks("clusters_a", full={}, noisy={"label_noise": 0.2})
    tasks += _tasks("clusters_b", full={}, few=few)
    tasks += _tasks("clusters_c", full={}, columns={"features": 0.7})
    tasks += _tasks("clusters_d", full={}, few={**middle, "label_noise": 0.1})
    tasks += _tasks("clusters_e", full={}, few=few)
    tasks += _tasks("clusters_f", full={}, pair={"classes": (0, 3), "rows": 192, "label_noise": 0.1})
    tasks += _tasks("clusters_g", full={}, wide={"noise_features": 10})
    tasks += _tasks("clusters_h", full=middle)
    tasks += _tasks("moons", full=middle, wide={"noise_features": 6})
    tasks += _tasks("circles", full=middle, noisy={"label_noise": 0.25, "noise_features": 2})
    tasks += _tasks("shells_a", full={}, wide={"noise_features": 8})
    tasks += _tasks("shells_b", full={}, first={"against_rest": 2, "rows": 192})
    tasks += _tasks("hastie", full={}, few=few)
    tasks += _tasks("friedman1", halves={"bins": 2}, fifths={"bins": 5})
    tasks += _tasks("friedman2", thirds={"bins": 3, "rows": 192})
    tasks += _tasks("friedman3", halves={"bins": 2}, noisy={"bins": 3, "label_noise": 0.2})
    tasks += _tasks("s_curve", fifths={"bins": 5}, few={"bins": 3, "rows": 96, "noise_features": 3})
    tasks += _tasks("swiss_roll", eighths={"bins": 8}, few={"bins": 4, "rows": 96, "label_noise": 0.1})
    tasks += _tasks("blobs_a", full={}, noisy={"rows": 192, "label_noise": 0.2})
    tasks += _tasks("blobs_b", full=middle)
    tasks += _tasks("sparse", halves={"bins": 2, "rows": 192})
    tasks += _tasks("linear", thirds={"bins": 3})
    tasks += _tasks("low_rank", halves={"bins": 2}, few={"bins": 3, "rows": 192})
    tasks += _tasks("word_counts", full={})
    return tasks


TASKS: dict[str, TaskSpec] = {task.name: task for task in _catalogue()}


@lru_cache(maxsize=4)
def load_task(name: str, seed: int) -> TaskData:
    """Derive a task from its source; the same name and seed give the same rows, labels and splits."""
    spec = TASKS[name]
    features, target = draw(spec.source, seed)
    rng = np.random.default_rng(stream(seed, "task", name))
    features, labels = _derive_labels(spec, features, target)
    features = _derive_features(spec, features, rng)
    classes = int(labels.max()) + 1
    training_labels = _with_wrong_labels(labels, classes, spec.label_noise, rng)
    splits = _split(labels, spec.rows, spec.splits, stream(seed, "split", name))
    for array in (features, labels, training_labels):
        array.setflags(write=False)
    return TaskData(name, SOURCES[spec.source].name, features, labels, training_labels, classes, splits)


def _derive_labels(spec: TaskSpec, features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class subset, quantile classes and one-against-rest; labels come out as `0..k-1`."""
    if spec.classes:
        keep = np.isin(target, spec.classes)
        features, target = features[keep], target[keep]
    if spec.bins:
        edges = np.quantile(target, np.arange(1, spec.bins) / spec.bins)
        target = np.searchsorted(edges, target, side="right")
    if spec.against_rest is not None:
        target = target == spec.against_rest
    return features, np.unique(target, return_inverse=True)[1].astype(np.int64)


def _derive_features(spec: TaskSpec, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random subset of the columns, then added noise columns."""
    if spec.features < 1:
        count = max(1, round(spec.features * features.shape[1]))
        features = features[:, np.sort(rng.permutation(features.shape[1])[:count])]
    noise = rng.standard_normal((len(features), spec.noise_features))
    return np.concatenate([features, noise], axis=1)


def _with_wrong_labels(
    labels: np.ndarray, classes: int, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Replace a share of the labels by one of the other classes, drawn uniformly."""
    wrong = rng.random(len(labels)) < share
    offset = rng.integers(1, classes, size=len(labels))
    return np.where(wrong, (labels + offset) % classes, labels)


def _split(labels: np.ndarray, rows: int, splits: int, seed: int) -> tuple[Split, ...]:
    from sklearn.model_selection import StratifiedShuffleSplit

    validation = min(VALIDATION_ROWS, len(labels) - rows)
    splitter = StratifiedShuffleSplit(splits, train_size=rows, test_size=validation, random_state=seed)
    return tuple(Split(train, held_out) for train, held_out in splitter.split(labels[:, None], labels))
