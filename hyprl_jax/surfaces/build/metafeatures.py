"""Numbers that describe a task before anything is trained on it, from the training rows of its first split
alone.

They are the simple, statistical and information-theoretic families of the meta-learning literature (Brazdil
et al. 2009, chapter 3), without landmarkers, so they cost nothing. Validation rows are never looked at.
"""

from __future__ import annotations

import numpy as np

from hyprl_jax.surfaces.build.tasks import TaskData


def metafeatures(task: TaskData) -> dict[str, float]:
    """Fifteen named finite numbers of one task."""
    rows = task.splits[0].train
    features, labels = task.features[rows], task.training_labels[rows]
    spread = features.std(axis=0)
    varying = features[:, spread > 1e-12]
    standard = (varying - varying.mean(axis=0)) / varying.std(axis=0)
    shares = np.bincount(labels, minlength=task.classes) / len(labels)
    skewness, kurtosis = (standard**3).mean(axis=0), (standard**4).mean(axis=0) - 3.0
    correlation = np.abs(np.corrcoef(standard, rowvar=False)) if standard.shape[1] > 1 else np.ones((1, 1))
    off_diagonal = correlation[~np.eye(len(correlation), dtype=bool)]
    variances = np.clip(
        np.linalg.eigvalsh(np.cov(standard, rowvar=False).reshape(len(correlation), -1))[::-1], 0, None
    )
    separation = _between_class_share(standard, labels, shares)
    entropy = -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))
    return {
        "log_rows": float(np.log(len(rows))),
        "log_features": float(np.log(features.shape[1])),
        "log_rows_per_feature": float(np.log(len(rows) / features.shape[1])),
        "classes": float(task.classes),
        "class_entropy": float(entropy / np.log(task.classes)),
        "smallest_class": float(shares.min()),
        "skewness_mean": float(np.mean(np.abs(skewness))),
        "kurtosis_mean": float(np.mean(np.log1p(np.abs(kurtosis)))),
        "correlation_mean": float(off_diagonal.mean()) if off_diagonal.size else 0.0,
        "correlation_max": float(off_diagonal.max()) if off_diagonal.size else 0.0,
        "first_component": float(variances[0] / variances.sum()),
        "components_95": float(np.searchsorted(np.cumsum(variances) / variances.sum(), 0.95) + 1)
        / features.shape[1],
        "separation_mean": float(separation.mean()),
        "separation_max": float(separation.max()),
        "zero_share": float(np.mean(features == 0)),
    }


def _between_class_share(standard: np.ndarray, labels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The share of each standardised column's variance that lies between the classes (eta squared), `[D]`."""
    means = np.stack([standard[labels == k].mean(axis=0) for k in range(len(shares)) if shares[k] > 0])
    return (shares[shares > 0][:, None] * means**2).sum(axis=0)
