"""The Q-network: any number of candidates in any order, the promised start, and gradients everywhere."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit

from hyprl_jax.config import NetworkConfig
from hyprl_jax.networks import SIZE_HEADS, CandidateInputs, FlaxNetwork

META, CONTEXT, FEATURES, STEPS = 3, 5, 4, 2
SMALL = NetworkConfig(context=6, hidden=7)
VARIANTS: dict[str, dict[str, Any]] = {
    "gru": {},
    "gru, metafeatures, two hidden layers": {"metafeatures": True, "layers": 2},
    "gru, no residual, no dueling, no hidden layer": {"residual": False, "dueling": False, "layers": 0},
    "gru, no dueling, no layer norm": {"dueling": False, "layer_norm": False},
    "lstm, metafeatures, no layer norm": {"cell": "lstm", "metafeatures": True, "layer_norm": False},
    "no cell, metafeatures, no residual": {"cell": "none", "metafeatures": True, "residual": False},
    "attention": {"cell": "attention", "memory": 3},
    "attention, metafeatures, no layer norm": {
        "cell": "attention",
        "metafeatures": True,
        "layer_norm": False,
    },
}


def variants() -> list[Any]:
    return [
        pytest.param(dataclasses.replace(SMALL, **changes), id=name) for name, changes in VARIANTS.items()
    ]


@cache
def parameters(config: NetworkConfig) -> Any:
    return FlaxNetwork(config).init(jax.random.key(0), META, CONTEXT, FEATURES)


def shaken(params: Any, seed: int = 1) -> Any:
    """Parameters away from their special start."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(seed)
    return structure.unflatten(
        [leaf + 0.3 * random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    )


def random_inputs(candidates: int, seed: int = 0) -> tuple[jax.Array, jax.Array, CandidateInputs]:
    """Metafeatures `[M]`, contexts `[STEPS, G]` and candidates."""
    random = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
    return (
        draw(META),
        draw(STEPS, CONTEXT),
        CandidateInputs(draw(candidates, FEATURES), -jnp.abs(draw(candidates)), jnp.float32(0.3)),
    )


@partial(quick_jit, static_argnames="config")
def unrolled(config: NetworkConfig, params: Any, inputs: tuple) -> jax.Array:
    """Q-values `[STEPS, N]` of the same candidates after each context."""
    network = FlaxNetwork(config)
    metafeatures, contexts, candidates = inputs
    carry, values = network.initial_carry(params, metafeatures), []
    for context in contexts:
        carry, hidden = network.advance(params, carry, context)
        values.append(network.values(params, hidden, candidates))
    return jnp.stack(values)


@pytest.mark.parametrize("config", variants())
def test_episodes_together_are_what_each_is_trial_by_trial(config: NetworkConfig) -> None:
    network, params = FlaxNetwork(config), shaken(parameters(config))
    each = [random_inputs(4, seed) for seed in range(3)]
    metafeatures, contexts, candidates = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    hidden = quick_jit(network.contexts)(params, metafeatures, contexts)
    by_trial = jax.tree.map(lambda leaf: jnp.stack([leaf] * STEPS, axis=1), candidates)
    values = quick_jit(network.values)(params, hidden, by_trial)
    assert hidden.shape[:2] == (3, STEPS) and values.shape == (3, STEPS, 4)
    for episode, inputs in enumerate(each):
        np.testing.assert_allclose(values[episode], unrolled(config, params, inputs), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("config", variants())
def test_every_parameter_has_a_finite_gradient_and_a_use(config: NetworkConfig) -> None:
    """At the start and after it; only behind a last layer that starts at zero may gradients be zero at
    first."""
    inputs = random_inputs(5)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(STEPS, 5)), jnp.float32)
    values = unrolled.__wrapped__
    gradient = quick_jit(jax.grad(lambda params: jnp.sum(weights * values(config, params, inputs))))
    for params in (parameters(config), shaken(parameters(config))):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(params)))
    unused = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(shaken(parameters(config))))
        if not np.abs(leaf).max() > 0
    ]
    assert not unused, "these parameters change nothing"


@pytest.mark.parametrize("cell", ["gru", "lstm", "attention"])
def test_values_follow_their_candidates(cell: str) -> None:
    """Another order, or fewer candidates, changes no candidate's value."""
    config = dataclasses.replace(SMALL, cell=cell, layers=2)
    params, inputs = shaken(parameters(config)), random_inputs(9)
    everything = np.asarray(unrolled(config, params, inputs))
    assert everything.shape == (STEPS, 9) and everything.dtype == np.float32
    for chosen in (np.random.default_rng(0).permutation(9), np.array([4]), np.array([8, 0, 3])):
        features, start, top = inputs[2]
        part = (inputs[0], inputs[1], CandidateInputs(features[chosen], start[chosen], top))
        np.testing.assert_allclose(unrolled(config, params, part), everything[:, chosen], atol=1e-5)


@pytest.mark.parametrize("dueling", [True, False])
def test_a_residual_network_starts_as_the_acquisition(dueling: bool) -> None:
    """Every value is 20 times the acquisition itself, and so the order is that of the acquisition."""
    config = dataclasses.replace(SMALL, dueling=dueling)
    for seed in range(3):
        params = FlaxNetwork(config).init(jax.random.key(seed), META, CONTEXT, FEATURES)
        inputs = random_inputs(20, seed)
        values = np.asarray(unrolled(config, params, inputs))
        for step in range(STEPS):
            assert np.array_equal(np.argsort(values[step]), np.argsort(inputs[2].start))
        acquisition = 0.3 * np.exp(np.asarray(inputs[2].start))
        np.testing.assert_allclose(values, 20.0 * np.tile(acquisition, (STEPS, 1)), rtol=1e-5)


def test_advantages_are_values_less_that_of_the_state() -> None:
    """The same for all candidates: the order is that of the values."""
    params, (metafeatures, contexts, candidates) = shaken(parameters(SMALL)), random_inputs(9)
    network = FlaxNetwork(SMALL)
    _, hidden = network.advance(params, network.initial_carry(params, metafeatures), contexts[0])
    values = np.asarray(network.values(params, hidden, candidates))
    advantages = np.asarray(network.advantages(params, hidden, candidates))
    np.testing.assert_allclose(values - advantages, (values - advantages)[0], atol=1e-5)
    assert abs((values - advantages)[0]) > 1e-3 and (advantages > 0.0).all()


@pytest.mark.parametrize("limit", [0.5, 1.5])
def test_the_correction_is_bounded(limit: float) -> None:
    """However large the parameters, the factor on the acquisition stays within the exponential of the
    limit."""
    config = dataclasses.replace(SMALL, layer_norm=False, dueling=False, residual_limit=limit)
    params = jax.tree.map(lambda leaf: 50.0 * leaf, shaken(parameters(config)))
    params = {**params, "scale": jax.tree.map(jnp.zeros_like, params["scale"])}
    inputs = random_inputs(30)
    acquisition = 0.3 * np.exp(np.asarray(inputs[2].start))
    factors = np.asarray(unrolled(config, params, inputs)) / (20.0 * acquisition)
    assert np.abs(np.log(factors)).max() <= limit + 1e-5
    assert np.ptp(np.log(factors), axis=1).max() > limit, "it is used on both sides"


def random_hidden(config: NetworkConfig, params: Any, inputs: tuple) -> jax.Array:
    """The context vector after the first context."""
    network = FlaxNetwork(config)
    return network.advance(params, network.initial_carry(params, inputs[0]), inputs[1][0])[1]


@pytest.mark.parametrize("config", variants())
def test_preferences_order_candidates_as_values_do(config: NetworkConfig) -> None:
    """On the scale of the log-acquisition: their start and a correction within the limit."""
    params, inputs = shaken(parameters(config)), random_inputs(12)
    network, hidden = FlaxNetwork(config), random_hidden(config, params, inputs)
    preferences = np.asarray(network.preferences(params, hidden, inputs[2]))
    values = np.asarray(network.values(params, hidden, inputs[2]))
    advantages = np.asarray(network.advantages(params, hidden, inputs[2]))
    assert np.array_equal(np.argsort(preferences), np.argsort(advantages))
    assert np.array_equal(np.argsort(preferences), np.argsort(values))
    if config.residual:
        correction = preferences - np.asarray(inputs[2].start)
        assert 0.01 < np.abs(correction).max() <= config.residual_limit
        np.testing.assert_allclose(
            np.log(advantages) - np.log(advantages[0]), preferences - preferences[0], atol=1e-4
        )
    else:
        np.testing.assert_allclose(preferences, advantages)


@pytest.mark.parametrize("config", variants())
def test_the_heads_of_size_do_not_touch_the_order(config: NetworkConfig) -> None:
    """Their parameters change values and no preference; all others change preferences."""
    params, inputs = shaken(parameters(config)), random_inputs(7)
    network, hidden = FlaxNetwork(config), random_hidden(config, params, inputs)
    before = network.preferences(params, hidden, inputs[2])
    values = network.values(params, hidden, inputs[2])
    sized = {
        name: jax.tree.map(lambda leaf: leaf + 0.5, part) if name in SIZE_HEADS else part
        for name, part in params.items()
    }
    assert np.array_equal(network.preferences(sized, hidden, inputs[2]), before)
    if set(SIZE_HEADS) & set(params):
        assert not np.allclose(network.values(sized, hidden, inputs[2]), values)
    for name in set(params) - set(SIZE_HEADS):
        moved = {**params, name: shaken(params[name], seed=2)}
        after = network.preferences(moved, random_hidden(config, moved, inputs), inputs[2])
        assert not np.allclose(after, before, atol=1e-5), name


@pytest.mark.parametrize("cell", ["gru", "lstm", "attention"])
def test_recurrent_cells_remember_and_the_other_does_not(cell: str) -> None:
    first, second = random_inputs(4, 0), random_inputs(4, 1)
    other = (first[0], second[1].at[-1].set(first[1][-1]), first[2])
    for name, remembers in ((cell, True), ("none", False)):
        config = dataclasses.replace(SMALL, cell=name)
        params = shaken(parameters(config))
        last = [unrolled(config, params, inputs)[-1] for inputs in (first, other)]
        assert (not np.allclose(*last)) == remembers, name


@pytest.mark.parametrize("cell", ["lstm", "attention"])
def test_metafeatures_matter_only_if_asked(cell: str) -> None:
    first = random_inputs(4)
    other = (first[0] + 1.0, *first[1:])
    for asked in (True, False):
        config = dataclasses.replace(SMALL, cell=cell, metafeatures=asked)
        params = shaken(parameters(config))
        assert (not np.allclose(unrolled(config, params, first), unrolled(config, params, other))) == asked


def test_a_task_without_metafeatures_is_no_obstacle() -> None:
    config = dataclasses.replace(SMALL, metafeatures=True)
    params = FlaxNetwork(config).init(jax.random.key(0), 0, CONTEXT, FEATURES)
    _, contexts, candidates = random_inputs(4)
    assert np.isfinite(unrolled(config, params, (jnp.zeros(0), contexts, candidates))).all()


def test_parameters_are_float32_and_depend_on_the_key() -> None:
    network = FlaxNetwork(SMALL)
    one, same, other = (network.init(jax.random.key(k), META, CONTEXT, FEATURES) for k in (0, 0, 1))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(one))
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, same)), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


# Attention.


@partial(quick_jit, static_argnames="config")
def hidden_states(
    config: NetworkConfig, params: Any, metafeatures: jax.Array, contexts: jax.Array
) -> jax.Array:
    """Context vectors `[T, H]` after each of `contexts [T, G]`."""
    network = FlaxNetwork(config)

    def advance(carry: Any, context: jax.Array) -> tuple[Any, jax.Array]:
        return network.advance(params, carry, context)

    return jax.lax.scan(advance, network.initial_carry(params, metafeatures), contexts)[1]


def attended(
    config: NetworkConfig, params: Any, metafeatures: np.ndarray, contexts: np.ndarray
) -> np.ndarray:
    """The same in NumPy, with one explicit sum over the past for each step."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    cell = params["cell"]
    steps = [np.tanh(c @ params["read"]["kernel"] + params["read"]["bias"]) for c in contexts]
    past = []
    if config.metafeatures:
        past.append(np.tanh(metafeatures @ params["remember"]["kernel"] + params["remember"]["bias"]))
    found = []
    for x in steps:
        past.append(x)
        query = x @ cell["query"]["kernel"] + cell["query"]["bias"]
        weights = np.asarray([np.exp(query @ (p @ cell["key"]["kernel"]) / np.sqrt(len(x))) for p in past])
        mixed = sum(w * (p @ cell["value"]["kernel"]) for w, p in zip(weights, past, strict=True))
        seen = mixed / weights.sum()
        found.append(x + seen @ cell["combine"]["kernel"] + cell["combine"]["bias"])
    return np.stack(found)


@pytest.mark.parametrize("metafeatures", [False, True])
@pytest.mark.parametrize("memory", [7, 12])
def test_attention_is_a_softmax_over_the_past(metafeatures: bool, memory: int) -> None:
    """Also with no more room than there are steps."""
    config = dataclasses.replace(
        SMALL, cell="attention", memory=memory, metafeatures=metafeatures, layer_norm=False
    )
    params, random = shaken(parameters(config)), np.random.default_rng(3)
    meta, contexts = random.normal(size=META), random.normal(size=(7, CONTEXT))
    found = hidden_states(config, params, jnp.asarray(meta, jnp.float32), jnp.asarray(contexts, jnp.float32))
    np.testing.assert_allclose(found, attended(config, params, meta, contexts), atol=1e-5)


def test_attention_looks_back_and_never_ahead() -> None:
    """Another context changes its own step and all later ones, and none before."""
    config = dataclasses.replace(SMALL, cell="attention", memory=6)
    params, random = shaken(parameters(config)), np.random.default_rng(4)
    contexts = jnp.asarray(random.normal(size=(6, CONTEXT)), jnp.float32)
    before = np.asarray(hidden_states(config, params, jnp.zeros(META), contexts))
    for step in range(6):
        after = np.asarray(hidden_states(config, params, jnp.zeros(META), contexts.at[step].add(1.0)))
        changed = np.abs(after - before).max(axis=1) > 1e-4
        assert changed.tolist() == [other >= step for other in range(6)]


# The fixed head.


FIXED = NetworkConfig(
    cell="lstm", context=6, head="fixed", outputs=9, hidden=7, metafeatures=True, shortlist=0,
    residual=False, dueling=False, layer_norm=False,
)  # fmt: skip


def published(params: Any, metafeatures: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """Q-values `[T, outputs]` of the published network in NumPy."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    cell, found = params["cell"], []
    hidden, memory = metafeatures @ params["remember"]["kernel"], np.zeros(FIXED.context)
    squash = lambda x: 1.0 / (1.0 + np.exp(-x))
    for context in contexts:
        gates = {
            name: context @ cell[f"i{name}"]["kernel"] + hidden @ cell[f"h{name}"]["kernel"]
            + cell[f"h{name}"]["bias"]
            for name in "ifgo"
        }  # fmt: skip
        memory = squash(gates["f"]) * memory + squash(gates["i"]) * np.tanh(gates["g"])
        hidden = squash(gates["o"]) * np.tanh(memory)
        x = hidden
        for layer in ("deeper_0", "deeper_1"):
            x = np.tanh(x @ params[layer]["kernel"] + params[layer]["bias"])
        found.append(x @ params["kernel"] + params["bias"])
    return np.stack(found)


def some_columns(columns: list[int]) -> CandidateInputs:
    return CandidateInputs(jnp.asarray(columns, jnp.int32)[:, None], jnp.zeros(len(columns)))


def test_the_fixed_head_is_the_published_network() -> None:
    """For all configurations, and for any of them in any order."""
    params = shaken(FlaxNetwork(FIXED).init(jax.random.key(0), META, 99, FEATURES))
    random = np.random.default_rng(5)
    meta, contexts = random.normal(size=META), random.normal(size=(5, FEATURES))
    expected = published(params, meta, contexts)
    hidden = hidden_states(FIXED, params, jnp.asarray(meta, jnp.float32), jnp.asarray(contexts, jnp.float32))
    network = FlaxNetwork(FIXED)
    for columns in (list(range(9)), [4], [8, 0, 0, 3]):
        values = jax.vmap(lambda h: network.values(params, h, some_columns(columns)))(hidden)  # noqa: B023
        np.testing.assert_allclose(values, expected[:, columns], atol=1e-5)
    given = jnp.asarray(meta, jnp.float32)[None], jnp.asarray(contexts, jnp.float32)[None]
    asked = jnp.asarray([[3], [8], [0], [4], [1]], jnp.int32)  # another configuration in every trial
    inputs = CandidateInputs(asked[None, :, :, None], jnp.zeros((1, 5, 1)), jnp.ones((1, 5)))
    values = network.values(params, network.contexts(params, *given), inputs)
    np.testing.assert_allclose(values[0, :, 0], expected[np.arange(5), asked[:, 0]], atol=1e-5)


@pytest.mark.parametrize("cell", ["gru", "lstm", "attention", "none"])
@pytest.mark.parametrize("metafeatures", [False, True])
def test_every_parameter_of_the_fixed_head_is_used(cell: str, metafeatures: bool) -> None:
    """By every cell; the outputs of configurations that are not judged get no gradient."""
    config = dataclasses.replace(FIXED, cell=cell, metafeatures=metafeatures)
    params = shaken(FlaxNetwork(config).init(jax.random.key(0), META, 99, FEATURES))
    network, (meta, _, _) = FlaxNetwork(config), random_inputs(1)
    contexts = jnp.asarray(np.random.default_rng(6).normal(size=(STEPS, FEATURES)), jnp.float32)

    def total(params: Any) -> jax.Array:
        hidden = hidden_states.__wrapped__(config, params, meta, contexts)
        return sum(jnp.sum(network.values(params, h, some_columns([2, 5]))) for h in hidden)  # type: ignore[return-value]

    gradient = quick_jit(jax.grad(total))(params)
    assert ("remember" in params) == metafeatures
    assert np.flatnonzero(np.abs(gradient["kernel"]).max(0)).tolist() == [2, 5]
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
