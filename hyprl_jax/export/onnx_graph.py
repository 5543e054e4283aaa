"""One step of the policy as an ONNX graph, built node by node from the architecture and the weights.

The same function as `hyprl_jax.networks` for all members at once: (carry, inputs) -> (carry, Q-values). The
number of episodes B and of candidates C is left open. Shapes of inputs and outputs stand in docs/export.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hyprl_jax.errors import MissingExtraError
from hyprl_jax.runtime.network import Architecture

_OPSET, _IR_VERSION = 18, 9  # ReduceMean with its axes as an input; read by every ONNX Runtime since 1.15
_EPSILON = 1e-6  # of the layer normalisation
_INITIAL_HORIZON = 20.0

__all__ = ["carry_names", "onnx_step"]


def carry_names(architecture: Architecture) -> tuple[str, ...]:
    """Names of the inputs that hold the recurrent state; each comes out as `next_NAME`."""
    return ("carry_cell", "carry_hidden") if architecture.cell == "lstm" else ("carry",)


def onnx_step(architecture: Architecture, weights: Mapping[str, np.ndarray], about: Mapping[str, str]) -> Any:
    """The checked model; `about` becomes its metadata.

    Args:
        architecture: of all members.
        weights: name to float32 array `[S, ...]`.
        about: texts by name.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ModuleNotFoundError:
        raise MissingExtraError("onnx", "export") from None
    graph = _Graph(architecture, weights)
    carries, values, scores = graph.build()
    members, wide = weights["read/kernel"].shape[0], architecture.context

    def declare(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    state = ("batch", members, wide)
    inputs = [declare(name, *state) for name in carry_names(architecture)]
    inputs += [
        declare("context", "batch", weights["read/kernel"].shape[1]),
        declare("features", "batch", "candidates", weights["see/kernel"].shape[1]),
        declare("start", "batch", "candidates"),
        declare("top", "batch"),
    ]
    names = [f"next_{name}" for name in carry_names(architecture)]
    graph.call(carries, names)
    graph.call([values, scores], ["q_values", "scores"])
    outputs = [declare(name, *state) for name in names]
    outputs += [declare("q_values", "batch", members, "candidates"), declare("scores", "batch", "candidates")]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "policy_step", inputs, outputs, graph.constants),
        producer_name="hyprl-jax",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants in the making; every method adds some and returns the name of the result."""

    def __init__(self, architecture: Architecture, weights: Mapping[str, np.ndarray]) -> None:
        self.architecture, self.weights = architecture, weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._constants: dict[tuple, str] = {}

    def build(self) -> tuple[list[str], str, str]:
        """Results: the next carries `[B, S, H]`, Q-values `[B, S, C]` and scores `[B, C]`."""
        carries, hidden = self._advance()
        preferences = self._preferences(hidden)
        advantages = preferences
        if self.architecture.residual:
            size = self.op(
                "Clip", self._dense("scale", hidden), self.number(np.float32(-4)), self.number(np.float32(4))
            )
            horizon = self.op("Mul", self.op("Exp", size), self.number(np.float32(_INITIAL_HORIZON)))
            horizon = self.op("Mul", horizon, self._with_axes("top", 1, 2))
            advantages = self.op("Mul", horizon, self.op("Exp", preferences))
        values = advantages
        if self.architecture.dueling:
            values = self.op("Add", self._dense("value", hidden), advantages)
        return carries, values, self._mean(advantages, 1, keep=0)

    def call(self, results: list[str], names: list[str]) -> None:
        """Gives results the names of the graph's outputs."""
        from onnx import helper

        for result, name in zip(results, names, strict=True):
            self.nodes.append(helper.make_node("Identity", [result], [name]))

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def number(self, value: Any, name: str = "") -> str:
        """A constant array, stored once."""
        from onnx import numpy_helper

        array = np.asarray(value)
        key = (name, array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name or f"constant_{len(self._constants)}"
            self.constants.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def _advance(self) -> tuple[list[str], str]:
        names = list(carry_names(self.architecture))
        read = self.op("Tanh", self._linear("read", self._with_axes("context", 1, 2), squeeze=True))
        if self.architecture.cell == "gru":
            hidden = self._gru(names[0], read)
            carries = [hidden]
        elif self.architecture.cell == "lstm":
            carries = self._lstm(names[0], names[1], read)
            hidden = carries[1]
        else:
            carries, hidden = names, self.op("Add", read, names[0])
        if self.architecture.layer_norm:
            hidden = self._norm("context_norm", hidden)
        return carries, hidden

    def _gru(self, carry: str, x: str) -> str:
        def gate(letter: str) -> str:
            return self.op("Add", self._dense(f"cell/i{letter}", x), self._dense(f"cell/h{letter}", carry))

        reset, keep = self.op("Sigmoid", gate("r")), self.op("Sigmoid", gate("z"))
        recurrent = self.op("Mul", reset, self._dense("cell/hn", carry))
        new = self.op("Tanh", self.op("Add", self._dense("cell/in", x), recurrent))
        fresh = self.op("Mul", self.op("Sub", self.number(np.float32(1)), keep), new)
        return self.op("Add", fresh, self.op("Mul", keep, carry))

    def _lstm(self, cell: str, hidden: str, x: str) -> list[str]:
        def gate(letter: str) -> str:
            return self.op("Add", self._dense(f"cell/i{letter}", x), self._dense(f"cell/h{letter}", hidden))

        kept = self.op("Mul", self.op("Sigmoid", gate("f")), cell)
        added = self.op("Mul", self.op("Sigmoid", gate("i")), self.op("Tanh", gate("g")))
        cell = self.op("Add", kept, added)
        return [cell, self.op("Mul", self.op("Sigmoid", gate("o")), self.op("Tanh", cell))]

    def _preferences(self, hidden: str) -> str:
        """`[B, S, C]`"""
        modulated = self._dense("modulate", hidden)
        x = self._linear("see", self._with_axes("features", 1), middle=True)
        x = self.op("Add", x, self._with_axes(modulated, 2))
        for layer in range(self.architecture.layers):
            if layer:
                x = self._linear(f"deeper_{layer - 1}", x, middle=True)
            if self.architecture.layer_norm:
                x = self._norm(f"head_norms_{layer}", x, middle=True)
            x = self.op("Relu", x)
        judged = self.op("Squeeze", self._linear("judge", x, middle=True), self.number(np.array([3])))
        if not self.architecture.residual:
            return judged
        limit = self.number(np.float32(self.architecture.residual_limit))
        bounded = self.op("Mul", limit, self.op("Tanh", self.op("Div", judged, limit)))
        return self.op("Add", self._with_axes("start", 1), bounded)

    def _dense(self, name: str, x: str) -> str:
        """`[B, S, before]` through the dense layers of the members, `[B, S, after]`."""
        return self._linear(name, self._with_axes(x, 2), squeeze=True)

    def _linear(self, name: str, x: str, squeeze: bool = False, middle: bool = False) -> str:
        """`x [B, S or 1, C or 1, before]` times the kernels `[S, before, after]` plus the biases."""
        y = self.op("MatMul", x, self.number(self.weights[f"{name}/kernel"], f"{name}/kernel"))
        if squeeze:
            y = self.op("Squeeze", y, self.number(np.array([2])))
        return (
            self.op("Add", y, self._weight(f"{name}/bias", middle)) if f"{name}/bias" in self.weights else y
        )

    def _weight(self, name: str, middle: bool) -> str:
        """A weight `[S, width]`, as `[S, 1, width]` where it meets an axis of candidates."""
        array = self.weights[name]
        return self.number(array[:, None] if middle else array, name)

    def _norm(self, name: str, x: str, middle: bool = False) -> str:
        centred = self.op("Sub", x, self._mean(x, -1))
        variance = self._mean(self.op("Mul", centred, centred), -1)
        width = self.op("Sqrt", self.op("Add", variance, self.number(np.float32(_EPSILON))))
        scaled = self.op("Mul", self.op("Div", centred, width), self._weight(f"{name}/scale", middle))
        return self.op("Add", scaled, self._weight(f"{name}/bias", middle))

    def _mean(self, x: str, axis: int, keep: int = 1) -> str:
        return self.op("ReduceMean", x, self.number(np.array([axis])), keepdims=keep)

    def _with_axes(self, x: str, *axes: int) -> str:
        return self.op("Unsqueeze", x, self.number(np.array(axes)))
