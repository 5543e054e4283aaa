"""Configurations: round trips, and a one-line error that names the dotted field for everything that is
wrong."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args, get_type_hints

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax.config import SurrogateConfig, TrainConfig, from_dict, from_saved, sweepable_fields, to_dict
from hyprl_jax.errors import InputError


def leaf_fields() -> dict[str, Any]:
    """Dotted name -> type of every field that is not a part."""
    found = {}
    for name, hint in get_type_hints(TrainConfig).items():
        if dataclasses.is_dataclass(hint):
            found.update({f"{name}.{inner}": kind for inner, kind in get_type_hints(hint).items()})
        else:
            found[name] = hint
    return found


LEAVES = leaf_fields()
CHOICES = {name: get_args(kind) for name, kind in LEAVES.items() if "Literal" in str(kind)}
LISTS = {name: get_args(kind)[0] for name, kind in LEAVES.items() if get_args(kind) and name not in CHOICES}


FIXED = {
    "network.head": "fixed", "network.residual": False, "network.dueling": False, "network.layer_norm": False,
    "network.shortlist": 0, "augment.candidates": 0, "learner.ordering": "q",
}  # fmt: skip
"""What the fixed head needs."""


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Dotted names as nested objects."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *parts, last = name.split(".")
        place = result
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return result


def read(name: str, values: dict[str, Any]) -> Any:
    for part in name.split("."):
        values = values[part]
    return values


def valid_values(name: str) -> st.SearchStrategy:
    """Values that are in range for the field whatever the others are."""
    if name in CHOICES:
        return st.sampled_from(CHOICES[name])
    if name in LISTS:
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
        item = st.integers(0, 1000) if LISTS[name] is int else text
        return st.lists(item, min_size=1, max_size=4, unique=True)
    kinds = {
        bool: st.booleans(),
        float: st.floats(0.01, 0.99),
        int: st.sampled_from([1, 2, 4, 8]),
        str: st.sampled_from(["loo", "kfold5", "kfold5:3", "some file.json"]),
    }
    return kinds[LEAVES[name]]


@st.composite
def valid_configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Some fields set to valid values, with the fields that must fit each other made to fit."""
    names = draw(st.sets(st.sampled_from(sorted(LEAVES))))
    values = {name: draw(valid_values(name)) for name in sorted(names)}
    for name in ("learner.episodes", "learner.replay_capacity"):
        values[name] = draw(st.sampled_from([64, 128]))
    values["learner.replay_capacity"] = 128
    values["augment.candidates"] = draw(st.sampled_from([0, 64]))
    if values.get("learner.double"):
        values["learner.target_period"] = 3
    if values.get("learner.plays") == 1:
        values |= {"learner.baseline": False, "learner.ordering": "q"}
    if values.get("learner.replay", "none") != "none":
        values["learner.ordering"] = "q"
    if values.get("network.cell") == "attention":
        values["network.memory"] = 25
    if values.get("network.head") == "fixed":
        values |= FIXED | {"collections": values.get("collections", [])[:1]}
    values["stream.reference"] = draw(st.sampled_from([2, 32]))
    values["stream.tasks"] = draw(st.sampled_from([0, 0, 2, 64]))
    if values["stream.tasks"] or values.get("surfaces") == "sharded":
        values["learner.replay"] = "none"
    if values["stream.tasks"]:
        values |= {"surfaces": "replicated", "collections": values.get("collections", [])[:1]}
    elif values.get("surfaces") == "sharded":
        values["augment.candidates"] = 64
    return values


@given(valid_configurations())
def test_round_trip(values: dict[str, Any]) -> None:
    config = from_dict(nested(values))
    plain = to_dict(config)
    for name, value in values.items():
        assert read(name, plain) == value
    written = json.loads(json.dumps(plain, allow_nan=False))
    assert from_dict(written) == config
    assert to_dict(from_dict(written)) == plain
    assert hash(from_dict(written)) == hash(config), "equal configurations share a compiled program"


def test_what_is_written_is_complete() -> None:
    plain = to_dict(TrainConfig())
    for name in LEAVES:
        read(name, plain)
    assert from_dict({}) == TrainConfig() == from_dict(plain)


@pytest.mark.parametrize("name", ["nonsense", "env.nonsense", "learner.learning_rat", "learner.env"])
def test_unknown_fields_are_named(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}'") as caught:
        from_dict(nested({name: 1}))
    assert "\n" not in str(caught.value)


def wrong_values() -> list[tuple[str, Any]]:
    wrong: dict[Any, list[Any]] = {
        bool: [1, "yes", None],
        int: [1.5, "three", True, None, [1]],
        float: ["fast", True, None, [0.5], {}],
        str: [3, None, ["loo"]],
    }
    cases = [(name, value) for name, kind in LEAVES.items() for value in wrong.get(kind, [])]
    cases += [(name, value) for name in CHOICES for value in ("nonsense", 3, None, ["gru"])]
    cases += [(name, value) for name in LISTS for value in (7, "abc", None, {}, [None], [[]])]
    return cases


@pytest.mark.parametrize(("name", "value"), wrong_values())
def test_wrong_types_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"'{name}'") as caught:
        from_dict(nested({name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["env", "learner", "network"])
@pytest.mark.parametrize("value", [3, None, [], "gru"])
def test_parts_must_be_objects(part: str, value: Any) -> None:
    with pytest.raises(InputError, match=part):
        from_dict({part: value})


OUT_OF_RANGE = [
    ("env.trials", 0), ("network.context", 0), ("network.hidden", -3), ("network.layers", -1),
    ("augment.candidates", -1), ("augment.mixture", 1.5), ("augment.mixture", -0.1), ("augment.noise", -1.0),
    ("surrogate.encoding_variance", 0.0), ("surrogate.lengthscale", -1.0), ("surrogate.noise", 0.0),
    ("surrogate.guard_share", 1.5), ("surrogate.guard_share", -0.1), ("surrogate.guard_variance", 0.0),
    ("learner.episodes", 0), ("learner.plays", 0), ("learner.minibatches", 0), ("learner.epochs", 0),
    ("learner.updates", -1), ("learner.n_step", 0), ("learner.gamma", 1.01), ("learner.lambda_", -0.5),
    ("learner.target_period", -1), ("learner.epsilon_start", 2.0), ("learner.epsilon_end", -0.1),
    ("learner.epsilon_fraction", 1.5), ("learner.learning_rate", -1e-3), ("learner.weight_decay", -1.0),
    ("learner.max_gradient_norm", 0.0), ("learner.huber", 0.0), ("learner.reward_scale", 0.0),
    ("learner.average", 1.5), ("learner.temperature", 0.0), ("learner.temperature", -0.1),
    ("learner.ratio_clip", 0.0), ("network.shortlist", -1), ("learner.warmup", -1), ("network.memory", 0),
    ("network.outputs", -1),
    ("validation_fraction", 0.0), ("validation_fraction", 1.0), ("updates_per_chunk", 0),
    ("checkpoint_seconds", -1.0), ("folds", []), ("folds", [1, 1]), ("seeds", [-1]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_values_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"'{name}'") as caught:
        from_dict(nested({name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_must_be_finite(value: float) -> None:
    for name in (name for name, kind in LEAVES.items() if kind is float):
        with pytest.raises(InputError, match=f"'{name}'"):
            from_dict(nested({name: value}))


UNUSABLE = [
    ("surrogate.learned_variance", -1.0),  # a negative variance
    ("surrogate.sharpness_low", -1.0),  # retrieves the tasks that disagree most
    ("surrogate.sharpness_high", -1.0),
    ("network.residual_limit", 0.0),  # 0 / 0 in the head
    ("network.residual_limit", -1.0),
    ("learner.replay_alpha", -1.0),
    ("learner.replay_beta", -1.0),
    ("seeds", [2**40]),  # the keys are made of 32-bit seeds
    ("learner.learning_rate", 10**400),  # no float at all
]


@pytest.mark.parametrize(("name", "value"), UNUSABLE, ids=[name for name, _ in UNUSABLE])
def test_whatever_is_accepted_can_be_trained(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"'{name}'"):
        from_dict(nested({name: value}))


COMBINATIONS = [
    ({"learner.episodes": 64, "learner.plays": 7}, "learner.plays"),
    ({"learner.episodes": 64, "learner.minibatches": 3}, "learner.minibatches"),
    ({"learner.double": True}, "learner.target_period"),
    (
        {"learner.replay": "uniform", "learner.replay_capacity": 8, "learner.ordering": "q"},
        "learner.replay_capacity",
    ),
    ({"learner.plays": 1, "learner.ordering": "q"}, "learner.baseline"),
    ({"learner.plays": 1, "learner.baseline": False}, "policy gradient compares the plays"),
    ({"learner.replay": "uniform"}, "learner.ordering"),
    ({"learner.replay": "prioritised"}, "learner.ordering"),
    ({"augment.candidates": 5, "env.trials": 6}, "augment.candidates"),
    ({"learner.epsilon_schedule": "exponential", "learner.epsilon_end": 0.0}, "epsilon"),
    ({"network.cell": "attention", "network.memory": 24}, "network.memory"),
    (FIXED | {"collections": ["one", "other"]}, "one collection"),
    (FIXED | {"augment.candidates": 128}, "augment.candidates to 0"),
    (FIXED | {"network.shortlist": 8}, "network.shortlist to 0"),
    (FIXED | {"network.residual": True}, "network.residual to false"),
    (FIXED | {"network.dueling": True}, "network.dueling to false"),
    (FIXED | {"network.layer_norm": True}, "network.layer_norm to false"),
    (FIXED | {"learner.ordering": "policy_gradient"}, "learner.ordering to q"),
]


@pytest.mark.parametrize(("values", "named"), COMBINATIONS)
def test_combinations_that_make_no_sense(values: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        from_dict(nested(values))
    assert "\n" not in str(caught.value)


def test_what_the_refusals_ask_for_is_accepted() -> None:
    """Single plays and stored episodes, with the ordering that needs neither plays nor fresh episodes."""
    alone = {"learner.plays": 1, "learner.baseline": False, "learner.ordering": "q"}
    assert from_dict(nested(alone)).learner.plays == 1
    for kind in ("uniform", "prioritised"):
        stored = {"learner.replay": kind, "learner.ordering": "q", "learner.replay_capacity": 4096}
        assert from_dict(nested(stored)).learner.replay == kind
    assert from_dict(nested({"network.shortlist": 0})).network.shortlist == 0, "all candidates"
    assert from_dict(nested(FIXED | {"collections": ["one"]})).network.head == "fixed"
    assert from_dict(nested({"network.cell": "attention", "network.memory": 25})).network.memory == 25


@given(
    st.sampled_from(sorted(LEAVES)),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_anything_in_a_file_is_a_configuration_or_an_input_error(name: str, value: Any) -> None:
    try:
        config = from_dict(nested({name: value}))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert from_dict(to_dict(config)) == config


def test_sweepable_fields_are_numbers_that_need_no_recompilation() -> None:
    names = sweepable_fields(TrainConfig())
    assert {"learner.learning_rate", "learner.gamma", "augment.mixture", "surrogate.noise"} <= set(names)
    assert all(LEAVES[name] is float for name in names)
    static = {name for name, kind in LEAVES.items() if "." in name and kind is float} - set(names)
    assert not static, f"numbers that only enter as values should be sweepable: {static}"
    assert len(set(names)) == len(names)


def test_configurations_are_static_arguments() -> None:
    traces = []

    def function(x: jax.Array, config: TrainConfig) -> jax.Array:
        traces.append(config)
        return x * config.env.trials

    jitted = jax.jit(function, static_argnames="config")
    jitted(1.0, config=TrainConfig())
    jitted(2.0, config=from_dict(to_dict(TrainConfig())))
    assert len(traces) == 1


def test_what_a_run_has_saved_must_be_complete() -> None:
    """A run without a field was trained before that part of the agent existed."""
    saved = to_dict(TrainConfig())
    assert from_saved(saved) == TrainConfig()
    del saved["surrogate"]["guard"]
    assert from_dict(saved) == TrainConfig()
    with pytest.raises(InputError, match=r"'surrogate\.guard' is missing.*train it again"):
        from_saved(saved)
    del saved["surrogate"]
    with pytest.raises(InputError, match="'surrogate' is missing"):
        from_saved(saved)


def test_a_guard_without_a_share_is_no_guard() -> None:
    with pytest.raises(InputError, match=r"set 'surrogate\.guard' to false"):
        TrainConfig(surrogate=SurrogateConfig(guard_share=0.0))
    TrainConfig(surrogate=SurrogateConfig(guard=False, guard_share=0.0))
