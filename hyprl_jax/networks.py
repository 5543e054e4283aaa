"""The recurrent Q-network: a context over the history, and a head that judges every candidate in that
context.

The only module that knows Flax. A network is a triple of pure functions (`Network`): `init` makes parameters,
`initial_carry` the recurrent state before the first trial, `advance` reads what happened since the last
choice, and
`values` gives a Q-value to any number of candidates. Parameters do not depend on the number of candidates,
so that a policy trained on subsets plays whole tables. Only the head `fixed`, that of the published Hyp-RL,
has one output for each configuration of its collection instead.

With `residual`, `Q(s, x) = V(h) + exp(c(h)) acquisition(x) exp(r(x, h))`: an advantage is an expected
improvement times a learned horizon, corrected by a learned factor. So the policy starts as the
classical acquisition function it is given and learns a bounded correction r, whose last layer starts at zero.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from hyprl_jax import recurrence
from hyprl_jax.config import NetworkConfig

Carry = Any
Params = Any

_INITIAL_HORIZON = 20.0  # scaled return of a unit of improvement: a few trials times the scale of rewards


class CandidateInputs(NamedTuple):
    """What the head sees of N candidates."""

    features: jax.Array
    """`[N, F]` float32 inputs of the head; `[N, 1]` int32 columns of the collection for the head `fixed`."""
    start: jax.Array
    """`[N]` float32 log-acquisition relative to the best legal candidate (0 for that one, negative for
    others)."""
    top: jax.Array | float = 1.0
    """Scalar acquisition of the best legal candidate."""


class Network(Protocol):
    """Pure functions of one episode; the caller vmaps."""

    def init(self, key: jax.Array, metafeatures: int, context: int, features: int) -> Params:
        """Parameters for inputs of these widths (`features`: of a candidate's, or with the head `fixed` of
        the previous configuration with its result, which is its context)."""

    def initial_carry(self, params: Params, metafeatures: jax.Array) -> Carry:
        """Recurrent state before the first trial; `metafeatures [M]`."""

    def advance(self, params: Params, carry: Carry, context: jax.Array) -> tuple[Carry, jax.Array]:
        """Recurrent state and context vector `[H]` after reading `context [G]`."""

    def contexts(self, params: Params, metafeatures: jax.Array, contexts: jax.Array) -> jax.Array:
        """Context vectors `[E, T, H]` of whole episodes: `metafeatures [E, M]`, `contexts [E, T, G]`."""

    def values(self, params: Params, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        """Q-values `[N]` in the context `hidden [H]`.

        This method and the two below judge several contexts at once, too: all that is given has the same
        leading axes then, `inputs.top` included."""

    def advantages(self, params: Params, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        """Q-values `[N]` less the value of the state: the same order, without its rounding."""

    def preferences(self, params: Params, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        """What Q-values `[N]` are ordered by, on the scale of the log-acquisition with `residual`."""


SIZE_HEADS = ("value", "scale")
"""Parameters that bear on the size of Q-values but not on their order."""


class AttentionMemory(NamedTuple):
    """What the cell `attention` carries: M places of width H, of which the first `steps` are filled."""

    keys: jax.Array
    """`[M, H]`"""
    values: jax.Array
    """`[M, H]`"""
    steps: jax.Array
    """int32."""


class _AttentionCell(nn.Module):
    """Causal self-attention, one head: each step attends to itself and to all before it.

    What is attended to in vain (more steps than there are places) is checked by the callers.
    """

    width: int
    places: int

    def setup(self) -> None:
        self.key = nn.Dense(self.width, use_bias=False)  # a bias would change no weight
        self.query = nn.Dense(self.width)
        self.value = nn.Dense(self.width, use_bias=False)
        self.combine = nn.Dense(self.width)

    def empty(self) -> AttentionMemory:
        nothing = jnp.zeros((self.places, self.width), jnp.float32)
        return AttentionMemory(nothing, nothing, jnp.int32(0))

    def store(self, memory: AttentionMemory, x: jax.Array) -> AttentionMemory:
        place = jnp.arange(self.places)[:, None] == memory.steps
        return AttentionMemory(
            jnp.where(place, self.key(x), memory.keys),
            jnp.where(place, self.value(x), memory.values),
            memory.steps + 1,
        )

    def __call__(self, memory: AttentionMemory, x: jax.Array) -> tuple[AttentionMemory, jax.Array]:
        """The memory with `x [H]`, and `x` with what it attends to."""
        memory = self.store(memory, x)
        scores = memory.keys @ self.query(x) / jnp.sqrt(jnp.float32(self.width))
        filled = jnp.arange(self.places) < memory.steps
        weights = jax.nn.softmax(jnp.where(filled, scores, -jnp.inf))
        return memory, x + self.combine(weights @ memory.values)


def _make_cell(config: NetworkConfig) -> Any:
    if config.cell == "gru":
        return nn.GRUCell(config.context)
    if config.cell == "lstm":
        return nn.LSTMCell(config.context)
    if config.cell == "attention":  # the metafeatures are a step of their own
        return _AttentionCell(config.context, config.memory + config.metafeatures)
    return None


class _QModule(nn.Module):
    """Linen module behind `FlaxNetwork`."""

    config: NetworkConfig

    def setup(self) -> None:
        config = self.config
        if config.cell != "none":
            self.cell = _make_cell(config)
        self.read = nn.Dense(config.context)
        if config.metafeatures:
            width = config.context * (2 if config.cell == "lstm" else 1)
            self.remember = nn.Dense(width, kernel_init=_fan_in)
        if config.layer_norm:
            self.context_norm = nn.LayerNorm()
            self.head_norms = [nn.LayerNorm() for _ in range(config.layers)]
        self.see = nn.Dense(config.hidden)
        self.modulate = nn.Dense(config.hidden, use_bias=False)
        self.deeper = [nn.Dense(config.hidden) for _ in range(max(0, config.layers - 1))]
        self.judge = nn.Dense(1, kernel_init=nn.initializers.zeros if config.residual else _small)
        if config.dueling:
            self.value = nn.Dense(1, kernel_init=nn.initializers.zeros)
        if config.residual:
            self.scale = nn.Dense(1, kernel_init=nn.initializers.zeros)

    def initial_carry(self, metafeatures: jax.Array) -> Carry:
        width = self.config.context
        if self.config.cell == "attention":
            empty = self.cell.empty()
            if not self.config.metafeatures:
                return empty
            return self.cell.store(empty, jnp.tanh(self.remember(metafeatures)))
        if self.config.metafeatures:
            first = jnp.tanh(self.remember(metafeatures))
        else:
            first = jnp.zeros(2 * width if self.config.cell == "lstm" else width, jnp.float32)
        return (first[:width], first[width:]) if self.config.cell == "lstm" else first

    def advance(self, carry: Carry, context: jax.Array) -> tuple[Carry, jax.Array]:
        hidden = self.see_context(context)
        if self.config.cell == "none":  # nothing is remembered but what the metafeatures said
            hidden = hidden + carry
        else:
            carry, hidden = self.cell(carry, hidden)
        return carry, self.present(hidden)

    def see_context(self, context: jax.Array) -> jax.Array:
        """What the cell reads."""
        return jnp.tanh(self.read(context))

    def present(self, hidden: jax.Array) -> jax.Array:
        """What the head sees of the cell."""
        return self.context_norm(hidden) if self.config.layer_norm else hidden

    def values(self, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        value = self.value(hidden) if self.config.dueling else jnp.float32(0.0)
        return value + self.advantages(hidden, inputs)

    def advantages(self, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        preferences = self.preferences(hidden, inputs)
        if not self.config.residual:
            return preferences
        horizon = _INITIAL_HORIZON * jnp.exp(jnp.clip(self.scale(hidden), -4.0, 4.0))
        return horizon * jnp.asarray(inputs.top)[..., None] * jnp.exp(preferences)

    def preferences(self, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        config, shape = self.config, inputs.features.shape[:-1]
        # As one long list of candidates: backwards, XLA makes better loops of it than of more axes.
        context = jnp.broadcast_to(self.modulate(hidden)[..., None, :], (*shape, config.hidden))
        x = self.see(inputs.features.reshape(-1, inputs.features.shape[-1]))
        x = x + context.reshape(-1, config.hidden)
        for layer in range(config.layers):
            if layer:
                x = self.deeper[layer - 1](x)
            x = nn.relu(self.head_norms[layer](x) if config.layer_norm else x)
        judged = self.judge(x).reshape(shape)
        if not config.residual:
            return judged
        limit = config.residual_limit
        return inputs.start + limit * jnp.tanh(judged / limit)

    def everything(self, metafeatures: jax.Array, context: jax.Array, inputs: CandidateInputs) -> jax.Array:
        """Touches every parameter once, for initialisation."""
        _, hidden = self.advance(self.initial_carry(metafeatures), context)
        return self.values(hidden, inputs)


class _FixedModule(nn.Module):
    """Linen module behind `FlaxNetwork` with the head `fixed`, the network of the published Hyp-RL.

    The recurrent cell reads the previous configuration and its result as they are and starts from a linear
    map of the metafeatures. On its output stand a tanh layer as wide as the cell, tanh layers of the head and
    one output a configuration.
    """

    config: NetworkConfig

    def setup(self) -> None:
        config = self.config
        if config.cell in ("attention", "none"):
            self.read = nn.Dense(config.context)
        if config.cell != "none":
            self.cell = _make_cell(config)
        if config.metafeatures:
            self.remember = nn.Dense(config.context, use_bias=False, kernel_init=_fan_in)
        widths = [config.context, *[config.hidden] * config.layers]
        self.deeper = [nn.Dense(width, kernel_init=_glorot) for width in widths]
        self.kernel = self.param("kernel", _glorot, (widths[-1], config.outputs))
        self.bias = self.param("bias", nn.initializers.zeros, (config.outputs,))

    def initial_carry(self, metafeatures: jax.Array) -> Carry:
        config = self.config
        nothing = jnp.zeros(config.context, jnp.float32)
        first = self.remember(metafeatures) if config.metafeatures else nothing
        if config.cell == "attention":
            return self.cell.store(self.cell.empty(), first) if config.metafeatures else self.cell.empty()
        return (nothing, first) if config.cell == "lstm" else first

    def advance(self, carry: Carry, context: jax.Array) -> tuple[Carry, jax.Array]:
        if self.config.cell == "none":
            return carry, jnp.tanh(self.read(context)) + carry
        read = jnp.tanh(self.read(context)) if self.config.cell == "attention" else context
        return self.cell(carry, read)

    def values(self, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        x = hidden
        for layer in self.deeper:
            x = jnp.tanh(layer(x))
        columns = inputs.features[..., 0]
        # In the fit one configuration is judged at a time: only its output is computed.
        return x @ self.kernel[:, columns] + self.bias[columns]

    advantages = values
    preferences = values

    def everything(self, metafeatures: jax.Array, context: jax.Array, inputs: CandidateInputs) -> jax.Array:
        """Touches every parameter once, for initialisation."""
        _, hidden = self.advance(self.initial_carry(metafeatures), context)
        return self.values(hidden, inputs)


class FlaxNetwork:
    """The `Network` of a configuration."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self._kind: Any = _FixedModule if config.head == "fixed" else _QModule
        self._module = self._kind(config)

    def init(self, key: jax.Array, metafeatures: int, context: int, features: int) -> Params:
        inputs = CandidateInputs(jnp.zeros((2, features)), jnp.zeros(2))
        if self.config.head == "fixed":
            context = features
            inputs = CandidateInputs(jnp.zeros((2, 1), jnp.int32), jnp.zeros(2))
        return self._module.init(
            key, jnp.zeros(metafeatures), jnp.zeros(context), inputs, method=self._kind.everything
        )["params"]

    def initial_carry(self, params: Params, metafeatures: jax.Array) -> Carry:
        return self._module.apply({"params": params}, metafeatures, method=self._kind.initial_carry)

    def advance(self, params: Params, carry: Carry, context: jax.Array) -> tuple[Carry, jax.Array]:
        return self._module.apply({"params": params}, carry, context, method=self._kind.advance)  # type: ignore[return-value]

    def contexts(self, params: Params, metafeatures: jax.Array, contexts: jax.Array) -> jax.Array:
        """Context vectors `[E, T, H]` of whole episodes, each from its start on: those of `advance`, trial by
        trial."""
        first = jax.vmap(partial(self.initial_carry, params))(metafeatures)
        if self.config.cell != "gru" or self.config.head == "fixed":
            advance = jax.vmap(partial(self.advance, params))
            return jnp.moveaxis(jax.lax.scan(advance, first, jnp.moveaxis(contexts, 1, 0))[1], 0, 1)
        apply = partial(self._module.apply, {"params": params})
        shape = contexts.shape[1], contexts.shape[0], -1
        rows = jnp.moveaxis(contexts, 1, 0).reshape(-1, contexts.shape[-1])
        seen: Any = apply(rows, method=self._kind.see_context)
        states = recurrence.gru(params["cell"], first, seen.reshape(shape))
        hidden: Any = apply(states.reshape(-1, states.shape[-1]), method=self._kind.present)
        return jnp.moveaxis(hidden.reshape(shape), 0, 1)

    def values(self, params: Params, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        return self._judged(params, hidden, inputs, self._kind.values)

    def advantages(self, params: Params, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        return self._judged(params, hidden, inputs, self._kind.advantages)

    def preferences(self, params: Params, hidden: jax.Array, inputs: CandidateInputs) -> jax.Array:
        return self._judged(params, hidden, inputs, self._kind.preferences)

    def _judged(self, params: Params, hidden: jax.Array, inputs: CandidateInputs, method: Any) -> jax.Array:
        def judge(hidden: jax.Array, inputs: CandidateInputs) -> Any:
            return self._module.apply({"params": params}, hidden, inputs, method=method)

        if self.config.head == "fixed":  # it looks up the weights of each context's own configurations
            for _ in hidden.shape[:-1]:
                judge = jax.vmap(judge)
        return judge(hidden, inputs)


def _small(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Small random weights: near-zero Q-values with distinct gradients."""
    return 0.01 * jax.random.normal(key, shape, dtype)


def _fan_in(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Flax's usual start, and nothing at all for an input of no width (a collection without metafeatures)."""
    return nn.initializers.lecun_normal()(key, shape, dtype) if shape[0] else jnp.zeros(shape, dtype)


_glorot = nn.initializers.glorot_uniform()
