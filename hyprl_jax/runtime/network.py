"""The Q-network in NumPy: the same function as `hyprl_jax.networks`, for all members of an ensemble at once.

Weights are named as in `weights.safetensors` (`cell/hz/kernel`) and lead with the axis of the S members;
arithmetic is in float64, so that it adds no error of its own to float32 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_INITIAL_HORIZON = 20.0
_EPSILON = 1e-6  # of the layer normalisation

Weights = Mapping[str, np.ndarray]


class Architecture(NamedTuple):
    """What shapes the network; the names are those of `hyprl_jax.config.NetworkConfig`."""

    cell: str
    context: int
    hidden: int
    layers: int
    candidates: str
    shortlist: int
    metafeatures: bool
    residual: bool
    residual_limit: float
    dueling: bool
    layer_norm: bool


def shapes(
    architecture: Architecture, context: int, features: int, metafeatures: int
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of one member, for inputs of these widths."""
    wide, narrow = architecture.context, architecture.hidden
    found: dict[str, tuple[int, ...]] = {}

    def dense(name: str, before: int, after: int, bias: bool = True) -> None:
        found[f"{name}/kernel"] = (before, after)
        if bias:
            found[f"{name}/bias"] = (after,)

    def norm(name: str, width: int) -> None:
        found[f"{name}/scale"] = found[f"{name}/bias"] = (width,)

    dense("read", context, wide)
    gates = {"gru": ("rzn", "n"), "lstm": ("ifgo", ""), "none": ("", "")}[architecture.cell]
    for gate in gates[0]:
        dense(f"cell/i{gate}", wide, wide, bias=architecture.cell == "gru")
        dense(f"cell/h{gate}", wide, wide, bias=architecture.cell == "lstm" or gate in gates[1])
    if architecture.metafeatures:
        dense("remember", metafeatures, wide * (2 if architecture.cell == "lstm" else 1))
    if architecture.layer_norm:
        norm("context_norm", wide)
        for layer in range(architecture.layers):
            norm(f"head_norms_{layer}", narrow)
    dense("see", features, narrow)
    dense("modulate", wide, narrow, bias=False)
    for layer in range(1, architecture.layers):
        dense(f"deeper_{layer - 1}", narrow, narrow)
    dense("judge", narrow, 1)
    if architecture.dueling:
        dense("value", wide, 1)
    if architecture.residual:
        dense("scale", wide, 1)
    return found


class Network:
    """The networks of S members.

    Args:
        architecture: of all members.
        weights: name to array `[S, ...]`, as `shapes` lists them.
    """

    def __init__(self, architecture: Architecture, weights: Weights) -> None:
        self.architecture = architecture
        self.weights = {name: np.asarray(array, np.float64) for name, array in weights.items()}
        self.members = next(iter(self.weights.values())).shape[0]

    @property
    def metafeatures(self) -> int:
        """Width of the metafeatures that the network reads, 0 if it reads none."""
        return self.weights["remember/kernel"].shape[1] if self.architecture.metafeatures else 0

    def initial_carry(self, metafeatures: np.ndarray | None = None) -> Any:
        """Recurrent state before the first trial: `[S, H]`, or a pair of these with an LSTM."""
        width, lstm = self.architecture.context, self.architecture.cell == "lstm"
        first = np.zeros((self.members, 2 * width if lstm else width))
        if self.architecture.metafeatures:
            given = np.zeros(self.metafeatures) if metafeatures is None else metafeatures
            first = np.tanh(self._dense("remember", given))
        return (first[:, :width], first[:, width:]) if lstm else first

    def advance(self, carry: Any, context: np.ndarray) -> tuple[Any, np.ndarray]:
        """Recurrent state and context vectors `[S, H]` after reading `context [G]`."""
        hidden = np.tanh(self._dense("read", np.asarray(context, np.float64)))
        if self.architecture.cell == "gru":
            carry = hidden = self._gru(carry, hidden)
        elif self.architecture.cell == "lstm":
            carry, hidden = self._lstm(carry, hidden)
        else:
            hidden = hidden + carry
        if self.architecture.layer_norm:
            hidden = self._norm("context_norm", hidden)
        return carry, hidden

    def values(self, hidden: np.ndarray, features: np.ndarray, start: np.ndarray, top: float) -> np.ndarray:
        """Q-values `[S, C]` of candidates with `features [C, F]` and `start [C]`; see
        `hyprl_jax.networks`."""
        value = self._dense("value", hidden)[:, :1] if self.architecture.dueling else 0.0
        return value + self.advantages(hidden, features, start, top)

    def advantages(
        self, hidden: np.ndarray, features: np.ndarray, start: np.ndarray, top: float
    ) -> np.ndarray:
        """Q-values `[S, C]` less the value of the state."""
        preferences = self.preferences(hidden, features, start)
        if not self.architecture.residual:
            return preferences
        horizon = _INITIAL_HORIZON * np.exp(np.clip(self._dense("scale", hidden)[:, :1], -4.0, 4.0))
        return horizon * top * np.exp(preferences)

    def preferences(self, hidden: np.ndarray, features: np.ndarray, start: np.ndarray) -> np.ndarray:
        """What Q-values are ordered by, `[S, C]`."""
        modulated = self._dense("modulate", hidden)[:, None, :]
        x = np.matmul(features, self.weights["see/kernel"]) + self.weights["see/bias"][:, None, :] + modulated
        for layer in range(self.architecture.layers):
            if layer:
                name = f"deeper_{layer - 1}"
                x = np.matmul(x, self.weights[f"{name}/kernel"]) + self.weights[f"{name}/bias"][:, None, :]
            if self.architecture.layer_norm:
                x = self._norm(f"head_norms_{layer}", x)
            x = np.maximum(x, 0.0)
        judged = (np.matmul(x, self.weights["judge/kernel"]) + self.weights["judge/bias"][:, None, :])[..., 0]
        if not self.architecture.residual:
            return judged
        limit = self.architecture.residual_limit
        return start + limit * np.tanh(judged / limit)

    def _dense(self, name: str, x: np.ndarray) -> np.ndarray:
        """`x [S, before]` or `[before]` through the dense layers of the members, `[S, after]`."""
        y = np.matmul(x[..., None, :], self.weights[f"{name}/kernel"])[..., 0, :]
        bias = self.weights.get(f"{name}/bias")
        return y if bias is None else y + bias

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """Layer normalisation (Ba, Kiros and Hinton 2016) over the last axis of `x [S, ..., width]`."""
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + _EPSILON)
        scale, bias = self.weights[f"{name}/scale"], self.weights[f"{name}/bias"]
        between = (slice(None), *(None,) * (x.ndim - 2))
        return scaled * scale[between] + bias[between]

    def _gru(self, carry: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Cho et al. 2014 with the reset gate on the output of the recurrent layer, as in Flax."""
        reset = _sigmoid(self._dense("cell/ir", x) + self._dense("cell/hr", carry))
        keep = _sigmoid(self._dense("cell/iz", x) + self._dense("cell/hz", carry))
        new = np.tanh(self._dense("cell/in", x) + reset * self._dense("cell/hn", carry))
        return (1.0 - keep) * new + keep * carry

    def _lstm(
        self, carry: tuple[np.ndarray, np.ndarray], x: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Hochreiter and Schmidhuber 1997; the carry is (cell, hidden), as in Flax."""
        cell, hidden = carry
        into, forget, new, out = (
            self._dense(f"cell/i{gate}", x) + self._dense(f"cell/h{gate}", hidden) for gate in "ifgo"
        )
        cell = _sigmoid(forget) * cell + _sigmoid(into) * np.tanh(new)
        hidden = _sigmoid(out) * np.tanh(cell)
        return (cell, hidden), hidden


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)
