"""Expected improvement in closed form, in NumPy, and the numbers that `hyprl_jax.surrogate` computes it from.

With `r = (mean - incumbent) / deviation` it is `deviation * (max(r, 0) + exp(-r^2 / 2) t^2 Q(t))`, where
`t = 1 / (1 + |r| / 4)` and the polynomial Q stands for what is left of the normal density less `|r|` times
the tail beyond `|r|`: one exponential and one division, and nothing cancels where the improvement is small.
"""

from __future__ import annotations

import numpy as np

TAIL = (
    0.0499024481, -0.183743113, 0.194099042, -0.0580688455, 0.0968617128, 0.0733257124, 0.0816688308,
    0.0700943142, 0.0498683877, 0.0249338908,
)  # fmt: skip
"""Q, highest power first: least squares at 3000 Chebyshev nodes of t in 0 to 1, relative error 2.6e-7."""
REACH = 0.25
"""What `|r|` is multiplied by in t."""


def expected_improvement(
    mean: np.ndarray, deviation: np.ndarray, incumbent: float | np.ndarray
) -> np.ndarray:
    """`E max(z - incumbent, 0)` for `z ~ N(mean, deviation^2)` (Jones, Schonlau and Welch 1998, eq. 15); any
    shape."""
    ratio = (mean - incumbent) / deviation
    t = 1.0 / (1.0 + REACH * np.abs(ratio))
    tail = np.full_like(t, TAIL[0])
    for coefficient in TAIL[1:]:
        tail *= t
        tail += coefficient
    return deviation * (np.maximum(ratio, 0.0) + np.exp(-0.5 * ratio * ratio) * t * t * tail)
