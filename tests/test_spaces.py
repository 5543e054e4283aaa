"""Search spaces: encoding and decoding without loss, activity as ConfigSpace sees it, hostile space files."""

from __future__ import annotations

import json

import ConfigSpace
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from surface_examples import sampled_frame, small_space, spaces, typed_frame

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces.space_json import parse_space, read_space, space_to_json


def make(*hyperparameters: object) -> ConfigSpace.ConfigurationSpace:
    space = ConfigSpace.ConfigurationSpace()
    space.add(*hyperparameters)
    return space


def legal_frame(space: ConfigSpace.ConfigurationSpace) -> pd.DataFrame:
    """Up to 20 configurations whose activity is right: under nested conditions ConfigSpace samples others
    too.
    """
    samples = space.sample_configuration(20)
    legal = [dict(sample) for sample in samples if set(sample) == space.get_active_hyperparameters(sample)]
    assume(legal)
    return typed_frame(space, legal)


@given(spaces())
def test_activity_is_that_of_configspace(space: ConfigSpace.ConfigurationSpace) -> None:
    samples = [
        sample
        for sample in space.sample_configuration(20)
        if set(sample) == space.get_active_hyperparameters(sample)  # sampling under nested conditions may err
    ]
    frame = typed_frame(space, [dict(sample) for sample in samples])
    encoding = SpaceEncoding(space)
    active = encoding.active(encoding.codes(frame))
    for sample, row in zip(samples, active, strict=True):
        expected = space.get_active_hyperparameters(sample)
        assert {name for name, on in zip(encoding.parameter_names, row, strict=True) if on} == expected
    assert encoding.violations(frame) == []


@given(spaces())
def test_tables_survive_encoding_exactly(space: ConfigSpace.ConfigurationSpace) -> None:
    frame = legal_frame(space)
    encoding = SpaceEncoding(space, frame)
    features, active = encoding.encode(frame)
    assert features.dtype == np.float32
    assert features.shape == (len(frame), len(encoding.feature_names))
    assert active.dtype == bool
    assert ((features >= 0) & (features <= 1)).all()
    unique, first = np.unique(features, axis=0, return_index=True)
    assume(len(unique) == len(frame.drop_duplicates()))  # two floats may be one float32
    pd.testing.assert_frame_equal(encoding.decode(features[first]), frame.iloc[first].reset_index(drop=True))


@given(spaces())
def test_unknown_configurations_decode_to_float32_precision(space: ConfigSpace.ConfigurationSpace) -> None:
    frame = legal_frame(space)
    encoding = SpaceEncoding(space)
    features, _ = encoding.encode(frame)
    decoded = encoding.decode(features)
    conditions_on_floats = any(
        encoding.space[parent.name].__class__.__name__ == "UniformFloatHyperparameter"
        for name in space
        for parent in space.parents_of[name]
    )
    for parameter in encoding.parameters:
        given_values, back = frame[parameter.name], decoded[parameter.name]
        if parameter.kind == "float":
            scale = max(abs(parameter.lower), abs(parameter.upper))
            both = given_values.notna() & back.notna()
            np.testing.assert_allclose(back[both], given_values[both], rtol=1e-5, atol=1e-6 * scale)
        elif not conditions_on_floats:
            pd.testing.assert_series_equal(back, given_values)


@given(spaces(), st.integers(0, 2**32 - 1))
def test_any_features_decode_to_legal_configurations(
    space: ConfigSpace.ConfigurationSpace, seed: int
) -> None:
    encoding = SpaceEncoding(space)
    rng = np.random.default_rng(seed)
    features = rng.normal(0.5, 1.0, (10, len(encoding.feature_names)))
    decoded = encoding.decode(features)
    assert encoding.violations(decoded) == []


@given(spaces())
def test_space_json_round_trip(space: ConfigSpace.ConfigurationSpace) -> None:
    text = space_to_json(space)
    again = parse_space(text)
    assert space_to_json(again) == text
    frame = legal_frame(space)
    np.testing.assert_array_equal(
        SpaceEncoding(space).encode(frame)[0], SpaceEncoding(again).encode(frame)[0]
    )


def test_scales_and_positions() -> None:
    space = make(
        ConfigSpace.UniformFloatHyperparameter("a", 1e-4, 1.0, log=True),
        ConfigSpace.UniformIntegerHyperparameter("b", 0, 10),
        ConfigSpace.OrdinalHyperparameter("c", ["low", "mid", "high"]),
        ConfigSpace.CategoricalHyperparameter("d", ["x", "y"]),
        ConfigSpace.Constant("e", 7),
    )
    frame = pd.DataFrame(
        {"a": [1e-4, 1e-2, 1.0], "b": [0, 5, 10], "c": ["low", "mid", "high"], "d": ["x", "y", "x"]}
    )
    encoding = SpaceEncoding(space)
    assert encoding.feature_names == ("a", "b", "c", "d=x", "d=y")
    features, active = encoding.encode(frame.assign(e=7))
    np.testing.assert_allclose(features[:, :3], [[0, 0, 0], [0.5, 0.5, 0.5], [1, 1, 1]], atol=1e-7)
    np.testing.assert_array_equal(features[:, 3:], [[1, 0], [0, 1], [1, 0]])
    assert active.all()


def test_inactive_values_are_neutral_and_flagged() -> None:
    space = small_space()
    encoding = SpaceEncoding(space)
    rows = [
        {"kernel": "rbf", "gamma": 0.1, "depth": "flat", "bias": True, "solver": "smo"},
        {"kernel": "poly", "degree": 5, "depth": "flat", "bias": False, "solver": "smo"},
        {"kernel": "linear", "depth": "flat", "bias": False, "solver": "smo"},
    ]
    features, active = encoding.encode(typed_frame(space, rows))
    named = dict(zip(encoding.feature_names, features.T, strict=True))
    np.testing.assert_array_equal(named["gamma:active"], [1, 0, 0])
    np.testing.assert_array_equal(named["degree:active"], [0, 1, 0])
    np.testing.assert_allclose(named["gamma"], [0.6, 0.5, 0.5], atol=1e-6)
    np.testing.assert_array_equal(named["degree"], [0.5, 1.0, 0.5])
    assert active[:, encoding.parameter_names.index("gamma")].tolist() == [True, False, False]
    assert not [name for name in named if name.startswith("solver")]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"gamma": 100.0}, "illegal-value"),
        ({"kernel": "sigmoid"}, "illegal-value"),
        ({"degree": 3}, "inactive-with-value"),
        ({"gamma": None}, "active-without-value"),
        ({"kernel": None}, "active-without-value"),
        ({"kernel": "linear", "gamma": None, "depth": "deep"}, "forbidden-configuration"),
    ],
)
def test_violations_are_named(change: dict[str, object], rule: str) -> None:
    space = small_space()
    good = {"kernel": "rbf", "gamma": 0.1, "depth": "flat", "bias": True, "solver": "smo"}
    frame = typed_frame(space, [good, good | change])
    found = SpaceEncoding(space).violations(frame)
    assert rule in {violation.rule for violation in found}
    assert {violation.row for violation in found} == {1}
    if rule != "forbidden-configuration":
        with pytest.raises(InputError, match="row 1, hyperparameter"):
            SpaceEncoding(space).encode(frame)


def test_fractions_are_no_integers() -> None:
    space = make(ConfigSpace.UniformIntegerHyperparameter("n", 1, 9))
    found = SpaceEncoding(space).violations(pd.DataFrame({"n": [2.0, 2.5]}))
    assert [(violation.row, violation.rule) for violation in found] == [(1, "illegal-value")]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from("xyz")), min_size=1))
def test_forbidden_clauses_hold_as_configspace_reads_them(rows: list[tuple[int, int, str]]) -> None:
    space = make(
        ConfigSpace.UniformIntegerHyperparameter("a", 0, 9, default_value=9),
        ConfigSpace.UniformIntegerHyperparameter("b", 0, 9, default_value=5),
        ConfigSpace.CategoricalHyperparameter("c", ["x", "y", "z"]),
    )
    high, low = (
        ConfigSpace.ForbiddenGreaterThanClause(space["a"], 5),
        ConfigSpace.ForbiddenLessThanClause(space["b"], 3),
    )
    space.add(
        ConfigSpace.ForbiddenEqualsClause(space["a"], 3),
        ConfigSpace.ForbiddenAndConjunction(high, low),
        ConfigSpace.ForbiddenAndConjunction(
            ConfigSpace.ForbiddenInClause(space["c"], ["y", "z"]),
            ConfigSpace.ForbiddenEqualsClause(space["b"], 7),
        ),
        ConfigSpace.ForbiddenLessThanRelation(space["a"], space["b"]),
    )
    frame = typed_frame(space, [dict(zip("abc", row, strict=True)) for row in rows])
    found = {violation.row for violation in SpaceEncoding(space).violations(frame)}
    forbidden = [a == 3 or (a > 5 and b < 3) or (c in "yz" and b == 7) or a < b for a, b, c in rows]
    assert found == set(np.flatnonzero(forbidden))


def test_choices_that_read_the_same_are_refused() -> None:
    with pytest.raises(InputError, match="read the same"):
        SpaceEncoding(make(ConfigSpace.CategoricalHyperparameter("a", [1, "1"])))


def test_missing_and_mistyped_columns_are_named() -> None:
    encoding = SpaceEncoding(small_space())
    frame = sampled_frame(small_space(), 5)
    with pytest.raises(InputError, match="'gamma'"):
        encoding.encode(frame.drop(columns="gamma"))
    with pytest.raises(InputError, match="'degree' is a number"):
        encoding.encode(frame.assign(degree="three"))
    with pytest.raises(InputError, match="features of shape"):
        encoding.decode(np.zeros((3, 2)))


def test_rows_are_encoded_independently_of_each_other() -> None:
    space = small_space()
    frame = sampled_frame(space, 300)
    large = pd.concat([frame] * 30, ignore_index=True)
    encoding = SpaceEncoding(space)
    features, active = encoding.encode(large)
    assert features.shape == (len(large), len(encoding.feature_names))
    np.testing.assert_array_equal(features[-len(frame) :], encoding.encode(frame)[0])
    np.testing.assert_array_equal(active[-len(frame) :], encoding.encode(frame)[1])


HOSTILE = {
    "empty": b"",
    "not json": b"{",
    "no object": b"[]",
    "no hyperparameters": b'{"hyperparameters": []}',
    "binary": b"\x00\xff\xfe",
    "nan": b'{"hyperparameters": [{"type": "uniform_float", "name": "a", "lower": NaN, "upper": 1}]}',
    "unknown type": b'{"hyperparameters": [{"type": "os.system", "name": "a"}]}',
    "unknown key": b'{"hyperparameters": [{"type": "constant", "name": "a", "value": 1, "evil": 2}]}',
    "text bounds": b'{"hyperparameters": [{"type": "uniform_int", "name": "a", "lower": "0", "upper": 1}]}',
    "huge integer range": b'{"hyperparameters": [{"type": "beta_int", "name": "a", "alpha": 2, "beta": 2, '
    b'"lower": 0, "upper": 1000000000000}]}',
    "integer beyond float": b'{"hyperparameters": [{"type": "uniform_int", "name": "a", '
    b'"lower": 0, "upper": 1e300}]}',
    "reversed bounds": b'{"hyperparameters": [{"type": "uniform_float", "name": "a", '
    b'"lower": 2, "upper": 1}]}',
    "log of zero": b'{"hyperparameters": [{"type": "uniform_float", "name": "a", "lower": 0, "upper": 1, '
    b'"log": true}]}',
    "same name twice": b'{"hyperparameters": [{"type": "constant", "name": "a", "value": 1}, '
    b'{"type": "constant", "name": "a", "value": 2}]}',
    "nested choice": b'{"hyperparameters": [{"type": "categorical", "name": "a", "choices": [[1], [2]]}]}',
    "null choice": b'{"hyperparameters": [{"type": "categorical", "name": "a", "choices": [null, 1]}]}',
    "condition on nothing": b'{"hyperparameters": [{"type": "constant", "name": "a", "value": 1}], '
    b'"conditions": [{"type": "EQ", "child": "a", "parent": "b", "value": 1}]}',
    "deep": b'{"hyperparameters": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_spaces_get_one_line(text: bytes) -> None:
    with pytest.raises(InputError) as caught:
        parse_space(text, "their/space.json")
    message = str(caught.value)
    assert message.startswith("their/space.json: ")
    assert "\n" not in message
    assert len(message) < 600


def test_large_space_files_are_not_even_read(tmp_path) -> None:
    path = tmp_path / "space.json"
    with open(path, "wb") as file:
        file.truncate(2**33)
    with pytest.raises(InputError, match="bytes are more than"):
        read_space(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_space(tmp_path / "nowhere.json")


@given(st.data())
def test_damaged_space_files_never_escape(data: st.DataObject) -> None:
    """Any change of a space file gives a space or an `InputError`, nothing else."""
    text = bytearray(space_to_json(small_space()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(text) - 1))
        text[position : position + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=6))
    try:
        space = parse_space(bytes(text))
    except InputError:
        return
    json.loads(space_to_json(space))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_strange_values_in_space_files_never_escape(data: st.DataObject) -> None:
    tree = json.loads(space_to_json(small_space()))
    part = data.draw(st.sampled_from(["hyperparameters", "conditions", "forbiddens"]))
    item = data.draw(st.sampled_from(tree[part]))
    item[data.draw(st.sampled_from(sorted(item)))] = data.draw(json_values)
    try:
        space = parse_space(json.dumps(tree))
    except InputError:
        return
    SpaceEncoding(space)
