"""What a trained model is scored by: validation figures from predictions, in NumPy.

`balanced_error` is the objective of every recipe, the others are recorded beside it. All of them are to be
minimised.
"""

from __future__ import annotations

import numpy as np


def balanced_error(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean over the classes of the share of their rows that was predicted wrongly; labels and predictions
    `[N]` int.
    """
    counts = np.bincount(labels, minlength=classes)
    wrong = np.bincount(labels[labels != predicted], minlength=classes)
    present = counts > 0
    return float(np.mean(wrong[present] / counts[present]))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log probability of the right class, probabilities `[N, classes]` clipped at 1e-6."""
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.mean(np.log(np.clip(right, 1e-6, 1.0))))


def ranking_error(labels: np.ndarray, scores: np.ndarray, classes: int) -> float:
    """One less the area under the ROC curve, mean over classes against the rest; scores `[N]` or `[N,
    classes]`.

    The area is the rank-sum statistic of Mann and Whitney (1947), tied scores counted half.
    """
    from scipy.stats import rankdata

    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1)
    errors = []
    for label in range(classes):
        positive = labels == label
        count, others = int(positive.sum()), int((~positive).sum())
        if count and others:
            ranks = rankdata(scores[:, label])[positive].sum()
            errors.append(1.0 - (ranks - count * (count + 1) / 2) / (count * others))
    return float(np.mean(errors))
