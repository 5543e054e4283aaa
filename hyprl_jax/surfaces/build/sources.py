"""Where the rows of a training task come from: the data that scikit-learn ships, and its generators.

A source is drawn once per build seed and belongs to one *group*: every task derived from it (class subsets,
label noise, fewer rows, ...) shares that group, so a split by groups never puts rows of one source on both
sides. Each setting of a generator has a stream of its own and is a group of its own, because two such draws
have no row in common.

`SOURCES` maps a name to a `Source`; `draw(name, seed)` gives its features `[N, D]` float64 and target `[N]`,
either class labels or a real number that a task turns into classes by quantiles. No network is used and
nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

GENERATED_ROWS = 1400

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Source:
    """One origin of rows; `name` is also the group of every task derived from it."""

    name: str
    load: Callable[[int], Rows]
    origin: str
    licence: str
    real: bool


def stream(seed: int, *names: object) -> int:
    """A 31-bit seed for the stream called `names`, so that streams of different names never coincide by
    arithmetic.
    """
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") & 0x7FFFFFFF


@lru_cache(maxsize=4)
def draw(name: str, seed: int) -> Rows:
    """Features `[N, D]` float64 and target `[N]` of one source; exact duplicate rows are dropped.

    Duplicates go because one copy in training and one in validation would be a leak (iris has such rows).
    """
    features, target = SOURCES[name].load(stream(seed, "source", name))
    features = np.asarray(features, dtype=np.float64)
    _, first = np.unique(features, axis=0, return_index=True)
    keep = np.sort(first)
    features, target = features[keep], np.asarray(target)[keep]
    features.setflags(write=False)
    target.setflags(write=False)
    return features, target


def _bundled(loader: str, _seed: int) -> Rows:
    from sklearn import datasets

    return getattr(datasets, loader)(return_X_y=True)


def _image_patches(name: str, axis: int, _seed: int) -> Rows:
    """Describe each non-overlapping 8 x 8 patch of a photograph; the target is where in the picture it was
    cut out.

    Features `[N, 22]`: mean and spread of the three colours, then the 4 x 4 block means of the grey patch
    less its mean.
    """
    from sklearn.datasets import load_sample_image

    picture = load_sample_image(name).astype(np.float64) / 255.0
    rows, columns = picture.shape[0] // 8, picture.shape[1] // 8
    patches = picture[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8, 3).transpose(0, 2, 1, 3, 4)
    patches = patches.reshape(rows * columns, 8, 8, 3)
    grey = patches.mean(axis=3).reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    features = [patches.mean(axis=(1, 2)), patches.std(axis=(1, 2)), grey - grey.mean(axis=1, keepdims=True)]
    place = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)[:, axis]
    return np.concatenate(features, axis=1), place.astype(np.float64)


def _generated(generator: str, options: dict[str, Any], seed: int) -> Rows:
    from sklearn import datasets

    features, target = getattr(datasets, generator)(n_samples=GENERATED_ROWS, random_state=seed, **options)
    return features, target


def _low_rank(rank: int, width: int, noise: float, seed: int) -> Rows:
    """A low-rank matrix plus noise; the target is a quadratic form of its leading directions."""
    from sklearn.datasets import make_low_rank_matrix

    rng = np.random.default_rng(seed)
    matrix = make_low_rank_matrix(
        GENERATED_ROWS, width, effective_rank=rank, tail_strength=0.2, random_state=seed
    )
    matrix = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)
    hidden = matrix @ rng.standard_normal((width, 3)) / np.sqrt(width)
    target = hidden[:, 0] * hidden[:, 1] + 0.7 * hidden[:, 2] + noise * rng.standard_normal(len(matrix))
    return matrix, target


def _one_of_many_labels(options: dict[str, Any], seed: int) -> Rows:
    """Word counts of a multi-label draw; the target is the number of labels of a row, capped at three."""
    from sklearn.datasets import make_multilabel_classification

    counts, labels = make_multilabel_classification(n_samples=GENERATED_ROWS, random_state=seed, **options)
    return counts + 0.0, np.minimum(labels.sum(axis=1), 3)


def _real(name: str, load: Callable[[int], Rows], origin: str, licence: str) -> Source:
    return Source(name, load, origin, licence, real=True)


def _made(name: str, generator: str, **options: Any) -> Source:
    words = ", ".join(f"{key}={value}" for key, value in options.items())
    load = partial(_generated, generator, options)
    return Source(
        name, load, f"sklearn.datasets.{generator}({words})", "no data of others: drawn by a seed", real=False
    )


_UCI = "CC BY 4.0 (UCI Machine Learning Repository), as shipped with scikit-learn (BSD-3-Clause)"
_PHOTO = "CC BY, photograph shipped with scikit-learn (sklearn.datasets.load_sample_image)"
_NONE = "no data of others: drawn by a seed"

_ALL = (
    _real("iris", partial(_bundled, "load_iris"), "sklearn.datasets.load_iris", _UCI),
    _real("wine", partial(_bundled, "load_wine"), "sklearn.datasets.load_wine", _UCI),
    _real(
        "breast_cancer", partial(_bundled, "load_breast_cancer"), "sklearn.datasets.load_breast_cancer", _UCI
    ),
    _real("digits", partial(_bundled, "load_digits"), "sklearn.datasets.load_digits", _UCI),
    _real(
        "diabetes",
        partial(_bundled, "load_diabetes"),
        "sklearn.datasets.load_diabetes (Efron, Hastie, Johnstone and Tibshirani 2004)",
        "published with the paper for free use; shipped with scikit-learn (BSD-3-Clause)",
    ),
    _real(
        "china",
        partial(_image_patches, "china.jpg", 0),
        "8 x 8 patches of china.jpg, target: their height",
        _PHOTO,
    ),
    _real(
        "flower",
        partial(_image_patches, "flower.jpg", 1),
        "8 x 8 patches of flower.jpg, target: their column",
        _PHOTO,
    ),
    _made(
        "clusters_a",
        "make_classification",
        n_features=20,
        n_informative=5,
        n_redundant=5,
        class_sep=0.8,
        flip_y=0.05,
    ),
    _made(
        "clusters_b",
        "make_classification",
        n_features=24,
        n_informative=12,
        n_redundant=2,
        n_classes=3,
        flip_y=0.02,
    ),
    _made(
        "clusters_c",
        "make_classification",
        n_features=10,
        n_informative=8,
        n_redundant=0,
        n_classes=4,
        n_clusters_per_class=3,
        class_sep=1.4,
        flip_y=0.0,
    ),
    _made(
        "clusters_d",
        "make_classification",
        n_features=15,
        n_informative=6,
        weights=[0.85, 0.15],
        n_clusters_per_class=3,
        class_sep=0.9,
    ),
    _made(
        "clusters_e",
        "make_classification",
        n_features=60,
        n_informative=6,
        n_redundant=0,
        class_sep=1.2,
        flip_y=0.0,
    ),
    _made(
        "clusters_f",
        "make_classification",
        n_features=12,
        n_informative=6,
        n_classes=5,
        class_sep=1.2,
        hypercube=False,
        n_clusters_per_class=2,
    ),
    _made(
        "clusters_g",
        "make_classification",
        n_features=6,
        n_informative=4,
        n_redundant=0,
        n_clusters_per_class=6,
        class_sep=1.3,
    ),
    _made(
        "clusters_h",
        "make_classification",
        n_features=24,
        n_informative=4,
        n_redundant=16,
        flip_y=0.15,
        class_sep=0.7,
    ),
    _made("moons", "make_moons", noise=0.3),
    _made("circles", "make_circles", noise=0.18, factor=0.6),
    _made("shells_a", "make_gaussian_quantiles", n_features=6, n_classes=3),
    _made("shells_b", "make_gaussian_quantiles", n_features=3, n_classes=5, cov=2.0),
    _made("hastie", "make_hastie_10_2"),
    _made("friedman1", "make_friedman1", n_features=12, noise=1.0),
    _made("friedman2", "make_friedman2", noise=100.0),
    _made("friedman3", "make_friedman3", noise=0.1),
    _made("s_curve", "make_s_curve", noise=0.35),
    _made("swiss_roll", "make_swiss_roll", noise=1.2),
    _made("blobs_a", "make_blobs", n_features=4, centers=7, cluster_std=3.5),
    _made("blobs_b", "make_blobs", n_features=20, centers=4, cluster_std=12.0),
    _made("sparse", "make_sparse_uncorrelated", n_features=12),
    _made(
        "linear",
        "make_regression",
        n_features=30,
        n_informative=10,
        noise=3.0,
        effective_rank=12,
        tail_strength=0.4,
    ),
    Source(
        "low_rank",
        partial(_low_rank, 6, 24, 0.3),
        "make_low_rank_matrix, quadratic target",
        _NONE,
        real=False,
    ),
    Source(
        "word_counts",
        partial(_one_of_many_labels, {"n_features": 16, "n_classes": 5, "n_labels": 2, "length": 40}),
        "make_multilabel_classification, target: how many labels",
        _NONE,
        real=False,
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
