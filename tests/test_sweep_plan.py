"""Files of sweeps: what they make, what they must not say, and that the rest is a mistake in one line."""

from __future__ import annotations

import itertools
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax.config import TrainConfig, from_dict, sweepable_fields, to_dict
from hyprl_jax.errors import InputError
from hyprl_jax.sweeps.plan import MOST_SETTINGS, Evaluate, Plan, parse_plan, read_plan, value_of

BASE: dict[str, Any] = {"collections": ["mlp"], "seeds": [0, 1]}

# Values of some fields that fit together in any combination.
STATIC = {
    "network.cell": ["gru", "none", "lstm"],
    "surrogate.leave_out": [True, False],
    "learner.epochs": [1, 2, 3],
    "updates_per_chunk": [5, 10],
}
SWEPT = {
    "learner.learning_rate": [1e-4, 1e-3, 0.01, 1],
    "learner.gamma": [0, 0.5, 0.9, 1],
    "surrogate.noise": [0.001, 0.01],
    "augment.mixture": [0.0, 0.25],
}
FIELDS = STATIC | SWEPT


def plan_of(**values: Any) -> Plan:
    return parse_plan({**BASE, **values})


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """A sound file: some fields in the grid, some in the list, the tables nested or dotted."""
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=5, unique=True))
    cut = draw(st.integers(0, len(names)))
    grid = {
        name: draw(st.lists(st.sampled_from(FIELDS[name]), min_size=1, max_size=2, unique_by=str))
        for name in names[:cut]
    }
    values: dict[str, Any] = {**BASE, "grid": _perhaps_nested(grid, draw(st.booleans()))}
    listed = names[cut:]
    if listed:
        every = [
            dict(zip(listed, one, strict=True)) for one in itertools.product(*(FIELDS[n] for n in listed))
        ]
        entries = draw(st.lists(st.sampled_from(every), min_size=1, max_size=4, unique_by=json.dumps))
        values["list"] = [_perhaps_nested(entry, draw(st.booleans())) for entry in entries]
    if draw(st.booleans()):
        values["evaluate"] = {"methods": ["policy", "random"], "trials": draw(st.integers(1, 9))}
    values["settings_per_job"] = draw(st.integers(0, 4))
    return values


def _perhaps_nested(flat: dict[str, Any], nested: bool) -> dict[str, Any]:
    if not nested:
        return flat
    found: dict[str, Any] = {}
    for name, value in flat.items():
        part, _, field = name.partition(".")
        if field:
            found.setdefault(part, {})[field] = value
        else:
            found[part] = value
    return found


@given(files())
def test_a_plan_is_every_combination_once_and_reads_itself_again(values: dict[str, Any]) -> None:
    plan = parse_plan(values)
    entries = plan.entries or ({},)
    expected = [
        {**entry, **dict(zip(plan.grid, point, strict=True))}
        for entry in entries
        for point in itertools.product(*plan.grid.values())
    ]
    found = [{name: value_of(one.config, name) for name in plan.fields} for one in plan.settings]
    assert found == expected
    assert len({one.name for one in plan.settings}) == len(plan.settings)
    for setting in plan.settings:
        others = to_dict(setting.config)
        for name in plan.fields:  # nothing but the axes differs from the base
            part, _, field = name.partition(".")
            (others[part] if field else others)[field or part] = value_of(plan.base, name)
        assert others == to_dict(plan.base)
    stored = json.loads(json.dumps(plan.as_json()))
    assert parse_plan(stored) == plan
    assert parse_plan(stored).as_json() == stored


@given(files())
def test_groups_hold_every_setting_once_and_differ_in_sweepable_fields_alone(values: dict[str, Any]) -> None:
    plan = parse_plan(values)
    groups = plan.groups()
    assert sorted(one.name for group in groups for one in group.settings) == sorted(
        one.name for one in plan.settings
    )
    assert len({group.name for group in groups}) == len(groups)
    sweepable = sweepable_fields(plan.base)
    static = [name for name in plan.fields if name not in sweepable]
    shapes = []
    for group in groups:
        assert set(group.fields) <= set(sweepable)
        for name in plan.fields:
            different = len({value_of(one.config, name) for one in group.settings}) > 1
            assert different == (name in group.fields)
        shapes.append(tuple(value_of(group.settings[0].config, name) for name in static))
        assert 1 <= len(group.settings) <= (plan.settings_per_job or len(plan.settings))
    if not plan.settings_per_job:
        assert len(set(shapes)) == len(shapes), "settings that could share a program do"


def test_the_file_is_read_as_it_is_documented(tmp_path: Path) -> None:
    start = to_dict(from_dict({"collections": ["mlp"], "learner": {"gamma": 0.5, "epochs": 2}}))
    (tmp_path / "start.json").write_text(json.dumps(start))
    (tmp_path / "sweep.toml").write_text(
        'config = "start.json"\nfolds = "all"\nseeds = [3, 4]\n"learner.epochs" = 3\n[network]\nhidden = 4\n'
        '[grid]\nlearner.learning_rate = [1e-3, 3e-3]\n"network.cell" = ["none"]\n'
        '[[list]]\n[[list]]\n"surrogate.noise" = 0.01\n'
        "[evaluate]\ntrials = 7\nseeds = [0, 1]\n"
    )
    plan = read_plan(tmp_path / "sweep.toml")
    assert plan.base.folds == (0, 1, 2, 3, 4)
    assert plan.base.seeds == (3, 4)
    assert (plan.base.learner.gamma, plan.base.learner.epochs, plan.base.network.hidden) == (0.5, 3, 4)
    assert plan.fields == ("surrogate.noise", "learner.learning_rate", "network.cell")
    usual = TrainConfig().surrogate.noise
    points = [(one.config.surrogate.noise, one.config.learner.learning_rate) for one in plan.settings]
    assert points == [(usual, 1e-3), (usual, 3e-3), (0.01, 1e-3), (0.01, 3e-3)]
    assert plan.evaluate == Evaluate(("policy",), 7, (0, 1))
    assert [one.name for one in plan.settings][2:] == [
        "2-noise-0.01-learning_rate-0.001-cell-none", "3-noise-0.01-learning_rate-0.003-cell-none",
    ]  # fmt: skip
    (group,) = plan.groups()
    assert group.fields == ("surrogate.noise", "learner.learning_rate")


GAMMA = {"learner.gamma": [0.9, 0.8]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "nothing to sweep"),
        ({"grid": {}}, "nothing to sweep"),
        ({"list": [{}]}, "nothing to sweep"),
        ({"grid": GAMMA, "collections": []}, "name collections"),
        ({"grid": GAMMA, "colections": ["a"]}, "'colections'"),
        ({"grid": {"learner.gama": [1.0]}}, "'learner.gama'"),
        ({"grid": {"gamma": [1.0]}}, "did you mean 'learner.gamma'"),
        ({"grid": {"learner": [1.0]}}, "'learner'"),
        ({"grid": {"learner.gamma.x": [1.0]}}, "'learner.gamma.x'"),
        ({"grid": {"learner": {"gamma": {"x": [1.0]}}}}, "'learner.gamma'"),
        ({"grid": {"learner.gamma": []}}, "'learner.gamma' has no values"),
        ({"grid": {"learner.gamma": 0.9}}, "'learner.gamma' is 0.9: give a list"),
        ({"grid": {"learner.gamma": [0.9, 0.9]}}, "'learner.gamma' has the value 0.9 twice"),
        ({"grid": {"learner.gamma": [1, 1.0]}}, "'learner.gamma' has the value 1.0 twice"),
        ({"grid": {"learner.gamma": ["much"]}}, "'learner.gamma' is 'much'"),
        ({"grid": {"learner.gamma": [True]}}, "'learner.gamma' is True"),
        ({"grid": {"learner.gamma": [float("nan")]}}, "'learner.gamma' is nan"),
        ({"grid": {"learner.gamma": [0.5, 1.5]}}, "'learner.gamma' is 1.5"),
        ({"grid": {"learner.epochs": [1.5]}}, "'learner.epochs' is 1.5"),
        ({"grid": {"network.cell": ["gru", "rnn"]}}, "'network.cell' is 'rnn'"),
        ({"grid": {"learner.plays": [16, 3]}}, "learner.plays (3)"),
        ({"grid": {**GAMMA, "learner": {"gamma": [0.1]}}}, "'learner.gamma' is given twice"),
        ({"grid": GAMMA, "learner.huber": 1.0, "learner": {"huber": 2.0}}, "'learner.huber' is given twice"),
        ({"grid": GAMMA, "learner": 3}, "learner"),
        ({"grid": GAMMA, "learner": {"gamma": {"x": 1}}}, "'learner.gamma' is a table"),
        ({"grid": GAMMA, "list": [{"learner.gamma": 0.5}]}, "in the grid and in the list"),
        ({"grid": [1]}, "grid is [1]"),
        ({"list": {"learner.gamma": 0.5}}, "list is"),
        ({"list": [3]}, "list entry 1 is 3"),
        ({"list": [{"learner.gamma": 0.5}, {"learner.gamma": 0.5}]}, "'learner.gamma'"),
        ({"list": [{"learner.gamma": 0.98}, {}]}, "are the same"),
        ({"grid": {"seeds": [[0], [1]]}}, "'seeds' cannot be an axis"),
        ({"grid": {"folds": [[0], [1]]}}, "'folds' cannot be an axis"),
        ({"grid": {"collections": [["mlp"], ["svm"]]}}, "'collections' cannot be an axis"),
        ({"grid": {"split": ["loo", "kfold5"]}}, "'split' cannot be an axis"),
        ({"grid": {"env.trials": [10, 20]}}, "'env.trials' cannot be an axis"),
        ({"list": [{"validation_plays": 3}]}, "'validation_plays' cannot be an axis"),
        ({"grid": {"checkpoint_seconds": [1.0]}}, "'checkpoint_seconds' cannot be an axis"),
        ({"grid": GAMMA, "seeds": [0, 0]}, "'seeds'"),
        ({"grid": GAMMA, "folds": "some"}, "'folds'"),
        ({"grid": GAMMA, "settings_per_job": -1}, "settings_per_job is -1"),
        ({"grid": GAMMA, "settings_per_job": True}, "settings_per_job is True"),
        ({"grid": GAMMA, "config": 3}, "config is 3"),
        ({"grid": GAMMA, "config": "x.toml"}, "config is 'x.toml'"),
        ({"grid": GAMMA, "config": "absent.json"}, "absent.json"),
        ({"grid": GAMMA, "evaluate": []}, "evaluate is []"),
        ({"grid": GAMMA, "evaluate": {"method": ["policy"]}}, "'evaluate.method'"),
        ({"grid": GAMMA, "evaluate": {"methods": ["random"]}}, "evaluate.methods"),
        ({"grid": GAMMA, "evaluate": {"methods": "policy"}}, "evaluate.methods"),
        ({"grid": GAMMA, "evaluate": {"methods": [["policy"]]}}, "evaluate.methods"),
        ({"grid": GAMMA, "evaluate": {"trials": 0}}, "evaluate.trials is 0"),
        ({"grid": GAMMA, "evaluate": {"seeds": [0.5]}}, "evaluate.seeds"),
        ({"grid": {"learner.gamma": [n / 2e4 for n in range(101)],
                   "learner.huber": [1.0 + n for n in range(100)]}}, "10,100 settings: 10,000 is the limit"),
        ({"grid": {"learner.huber": list(range(1, MOST_SETTINGS + 2))}}, "10,001 values"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line_that_names_the_field(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_of(**values)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message and len(message) < 500


def test_an_axis_wins_over_the_base_and_bool_is_no_number() -> None:
    plan = plan_of(learner={"gamma": 0.1}, grid={"learner.gamma": [0.9], "surrogate.guard": [True, False]})
    assert [one.config.learner.gamma for one in plan.settings] == [0.9, 0.9]
    assert [one.config.surrogate.guard for one in plan.settings] == [True, False]
    assert len(plan.groups()) == 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "x = ", "not TOML"),
        ("a.toml", "learner.gamma = 1\nlearner.gamma = 2", "not TOML"),
        ("a.json", "{", "not JSON"),
        ("a.json", '{"seeds": [0], "seeds": [1]}', "'seeds' stands twice"),
        ("a.json", "[1]", "not a JSON object"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.toml", "x = " + "[" * 100_000, "not TOML"),
        ("a.json", '{"learner": ' + "9" * 5000 + "}", "a.json"),
        ("a.yaml", "x: 1", ".toml or .json"),
        ("a.toml", "#" * 1_000_001, "larger than"),
    ],
)
def test_a_file_that_is_none_is_told_by_its_name(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_plan(tmp_path / name)
    message = str(caught.value)
    assert words in message and name in message
    assert "\n" not in message and len(message) < 700
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "absent.toml")


NAMES = st.sampled_from(
    ["grid", "list", "config", "evaluate", "learner", "gamma", "learner.gamma", "seeds", "methods",
     "collections", "split", "folds", "network", "cell", "settings_per_job", "x", ""]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=12,
    )
)
def test_whatever_a_file_holds_it_is_a_plan_or_an_input_error(values: Any) -> None:
    with_base = {**BASE, "grid": GAMMA, **values} if isinstance(values, dict) else {**BASE, "grid": values}
    try:
        plan = parse_plan(with_base)
    except InputError as mistake:
        assert "\n" not in str(mistake)
    else:
        assert plan.settings


@pytest.mark.parametrize(("place", "settings"), [("docs/sweeps.md", 12), ("hyprl_jax/cli/sweep.py", 6)])
def test_files_in_the_documentation_are_plans(
    repository: Path, tmp_path: Path, place: str, settings: int
) -> None:
    text = (repository / place).read_text(encoding="utf-8")
    if place.endswith(".md"):
        text = text.partition("```toml\n")[2].partition("```")[0]
    else:
        text = text.partition("A sweep.toml:\n")[2].partition("    Settings that differ")[0]
    (tmp_path / "sweep.toml").write_text(textwrap.dedent(text))
    plan = read_plan(tmp_path / "sweep.toml")
    assert len(plan.settings) == settings
    assert len(plan.groups()) == 2
    assert plan.evaluate is not None
