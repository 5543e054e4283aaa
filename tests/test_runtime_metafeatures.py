"""Metafeatures in a search: the likeness of the device, what it changes, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes import quick_jit
from runtime_examples import COLD, LEARNED, make_policy

from hyprl_jax import bank as banks
from hyprl_jax import knowledge
from hyprl_jax.__main__ import main
from hyprl_jax.config import SurrogateConfig
from hyprl_jax.errors import InputError
from hyprl_jax.runtime import EarlierTask, Float, Policy, Space, Tuner, default_policy
from hyprl_jax.runtime.belief import WARM, Beliefs, Posterior
from hyprl_jax.runtime.likeness import LEAST_FLOOR, scaled, scales, task_weights, unlikeness
from hyprl_jax.runtime.metafeatures import Described

SPACE = Space([Float("x", 0.0, 1.0), Float("y", 0.0, 1.0)])
ALIKE = LEARNED._replace(freedom=4.0, similarity_width=0.1, similarity_floor=0.3)


def described(draw: st.DataObject, tasks: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A task's metafeatures `[M]` and those of known ones `[K, M]`: with ties, outliers and gaps."""
    width = 3 if tasks else draw.draw(st.integers(1, 5))
    tasks = tasks or draw.draw(st.integers(1, 12))
    # Eighths are exact in single precision, and so are sums of them.
    value = st.integers(-8, 8).map(lambda n: n / 8.0) | st.sampled_from([np.nan, 40.0, -40.0])
    values = np.asarray(
        draw.draw(st.lists(value, min_size=(tasks + 1) * width, max_size=(tasks + 1) * width))
    )
    return values[:width], values[width:].reshape(tasks, width)


@quick_jit
def on_device(mine: jax.Array, known: jax.Array, width: jax.Array, floor: jax.Array) -> Any:
    """How unlike the device finds them, and how much they count."""
    bank: Any = SimpleNamespace(metafeatures=jnp.concatenate([known, mine[None]]).astype(jnp.float32))
    tasks = jnp.arange(len(known))
    fold: Any = SimpleNamespace(known=tasks, usable=tasks >= 0)
    values = banks.standardised_metafeatures(bank, fold)
    collection = jnp.zeros(len(known), jnp.int32)
    ranks = knowledge.known_ranks(values[:-1], collection)
    apart = knowledge.unlikeness(values[-1], values[:-1], ranks, collection == 0)
    config = SurrogateConfig(similarity_width=width, similarity_floor=floor)  # type: ignore[arg-type]
    return apart, knowledge.task_weights(collection == 0, apart, config)


# ---- the same as on the device


@given(st.data())
def test_numpy_and_jax_find_the_same_tasks_alike(data: st.DataObject) -> None:
    mine, known = described(data, data.draw(st.sampled_from([1, 8])))
    apart = unlikeness(mine, known)
    width, floor = data.draw(st.floats(0.05, 2.0)), data.draw(st.floats(0.0, 1.5))
    theirs, weights = on_device(mine, known, width, floor)
    np.testing.assert_allclose(apart, theirs, atol=1e-6)
    np.testing.assert_allclose(task_weights(len(known), apart, width, floor), weights, atol=1e-5)


def test_what_is_assumed_by_default_is_what_is_assumed_in_training() -> None:
    ours, theirs = WARM._asdict(), SurrogateConfig()
    assert ours == {name: getattr(theirs, name) for name in ours} | {"denoise": 0.0}
    assert LEAST_FLOOR == knowledge.LEAST_FLOOR


@given(st.data())
def test_weights_are_shares_that_fall_with_unlikeness(data: st.DataObject) -> None:
    mine, known = described(data)
    apart = unlikeness(mine, known)
    assert (apart >= 0.0).all() and (apart <= 1.0).all()
    weights = task_weights(len(known), apart, data.draw(st.floats(1e-11, 10.0)), 0.3)
    assert math.isclose(weights.sum(), 1.0, rel_tol=1e-9) and (weights > 0.29 / len(known)).all()
    assert (np.diff(weights[np.argsort(apart, kind="stable")]) <= 1e-12).all()


def test_nothing_to_compare_makes_all_the_same() -> None:
    known = np.asarray([[1.0, np.nan], [1.0, np.nan], [1.0, np.nan]])
    assert (unlikeness(np.asarray([5.0, 2.0]), known) == 0.0).all()
    for weights in (task_weights(4, None, 0.2, 0.3), task_weights(4, np.asarray([0, 0.1, 0.5, 1]), 0.2, 1.0)):
        np.testing.assert_allclose(weights, 0.25)
    assert task_weights(0, None, 0.2, 0.3).shape == (0,)


def test_scaling_puts_unknown_values_at_the_mean_and_outliers_within_reach() -> None:
    known = np.asarray([[1.0, 4.0], [3.0, np.nan]])
    mean, deviation = scales(known)
    np.testing.assert_allclose(mean, [2.0, 4.0])
    found = scaled(np.asarray([1e30, np.nan]), mean, deviation)
    np.testing.assert_array_equal(found, [3.0, 0.0])
    np.testing.assert_array_equal(scaled(known[0], mean, deviation)[1:], [0.0])


# ---- the posterior


def small_posterior(beliefs: Beliefs, apart: np.ndarray | None = None) -> Posterior:
    random = np.random.default_rng(0)
    return Posterior(random.random((12, 2)), random.random((3, 12)), np.zeros(3), np.ones(3), beliefs, apart)


def test_beliefs_of_the_first_exports_mean_what_they_meant() -> None:
    first = {name: value for name, value in LEARNED._asdict().items() if name in Beliefs._fields[:8]}
    found = Beliefs.from_dict(first, "here")
    assert (found.freedom, found.similarity_floor) == (0.0, 1.0) and found == LEARNED
    apart = np.asarray([0.0, 0.3, 0.6])
    even, same = small_posterior(found, apart), small_posterior(found)
    np.testing.assert_allclose(even.mean, same.mean, atol=1e-15)
    for change in (
        {"similarity_floor": 1.5},
        {"similarity_width": 0.0},
        {"freedom": -1.0},
        {"freedom": None},
    ):
        with pytest.raises(InputError, match="here"):
            Beliefs.from_dict({**ALIKE._asdict(), **change}, "here")
    with pytest.raises(InputError, match="here"):
        Beliefs.from_dict({**first, "freedom": 4.0}, "here")


def test_surprise_widens_a_student_process_and_agreement_narrows_it() -> None:
    legal = np.ones(12, bool)

    def widened(values: list[float]) -> float:
        """How much wider than the Gaussian process it is after these results."""
        made = [small_posterior(beliefs) for beliefs in (ALIKE, LEARNED)]
        for posterior in made:
            for column, value in enumerate(values):
                posterior.update(column, value)
        student, gaussian = (posterior.believe(legal).deviation for posterior in made)
        np.testing.assert_allclose(student / gaussian, student[0] / gaussian[0])
        return float(student[0] / gaussian[0])

    expected = small_posterior(LEARNED).mean[:6]
    assert widened([]) == 1.0
    assert widened(expected.tolist()) < 1.0 < widened([9.0, -7.0, 8.0, -9.0, 3.0, 0.0])


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=8), st.floats(0.0, 1e5))
def test_whatever_is_told_leaves_finite_beliefs(values: list[float], freedom: float) -> None:
    posterior = small_posterior(ALIKE._replace(freedom=freedom), np.asarray([0.0, 0.5, 1.0]))
    for column, value in enumerate(values):
        posterior.update(column, value)
    belief = posterior.believe(np.arange(12) >= len(values))
    for part in (belief.mean, belief.deviation, belief.acquisition, belief.gains):
        assert np.isfinite(part).all()


# ---- a search


def bowl(config: dict[str, Any], middle: float) -> float:
    return (config["x"] - middle) ** 2 + (config["y"] - middle) ** 2


def two_kinds(count: int = 3) -> list[EarlierTask]:
    """Earlier tasks on large datasets, with the optimum at 0.2, and on small ones, with theirs at 0.8."""
    configs = SPACE.configs(SPACE.from_positions(np.random.default_rng(0).random((80, 2))))
    made = []
    for number in range(count):
        for middle, rows in ((0.2, 1e5), (0.8, 1e2)):
            results = [(config, bowl(config, middle + 0.01 * number)) for config in configs]
            made.append(EarlierTask(results, {"rows": rows * (1 + number), "columns": 7.0}))
    return made


@pytest.mark.parametrize("beliefs", [ALIKE, COLD])
def test_a_search_starts_where_similar_datasets_were_good(beliefs: Beliefs) -> None:
    policy = make_policy(beliefs, strength=0.0)
    for rows, middle in ((1.2e5, 0.2), (1.5e2, 0.8)):
        tuner = Tuner(SPACE, policy=policy, earlier=two_kinds(), metafeatures={"rows": rows})
        assert bowl(tuner.ask(), middle) < 0.1
    first = Tuner(SPACE, policy=policy, earlier=two_kinds())
    bare = Tuner(SPACE, policy=policy, earlier=[task.results for task in two_kinds()])
    assert first.ask() == bare.ask(), "nothing is known of this dataset: all earlier tasks count the same"
    np.testing.assert_allclose(first._pool.episode.posterior._weights, 1 / 6)  # type: ignore[union-attr]


def test_a_policy_without_likeness_does_not_listen() -> None:
    asked = [
        Tuner(SPACE, policy=make_policy(LEARNED), earlier=two_kinds(), metafeatures=given).ask()
        for given in (None, {"rows": 1e5}, {"rows": 1e2})
    ]
    assert asked[0] == asked[1] == asked[2]


def test_metafeatures_survive_the_state(tmp_path: Path) -> None:
    policy = make_policy(ALIKE)
    about: dict[str, Any] = {"rows": np.float32(3e4), "columns": None, "unheard": math.nan}
    tuner = Tuner(SPACE, policy=policy, earlier=two_kinds(), metafeatures=about)
    assert tuner.metafeatures == {"rows": 3e4}, "what is unknown may have any name"
    for _ in range(3):
        config = tuner.ask()
        tuner.tell(config, bowl(config, 0.3))
    tuner.save(tmp_path / "state.json")
    again = Tuner.load(tmp_path / "state.json", policy)
    assert again.state() == tuner.state() and again.ask() == tuner.ask()
    np.testing.assert_array_equal(
        again._pool.episode.posterior._weights,  # type: ignore[union-attr]
        tuner._pool.episode.posterior._weights,  # type: ignore[union-attr]
    )


def test_states_of_the_first_versions_go_on(tmp_path: Path) -> None:
    policy = make_policy(LEARNED)
    tuner = Tuner(SPACE, policy=policy, earlier=[task.results for task in two_kinds()])
    tuner.tell(tuner.ask(), 0.5)
    state = json.loads(json.dumps(tuner.state()))
    del state["metafeatures"], state["earlier_metafeatures"]
    assert Tuner.from_state(state, policy).ask() == tuner.ask()


@pytest.mark.parametrize(
    "junk",
    [
        {"earlier_metafeatures": [{}]},
        {"earlier_metafeatures": [[]] * 6},
        {"earlier_metafeatures": None},
        {"earlier_metafeatures": [{"rows": "x"}] * 6},
        {"metafeatures": []},
        {"metafeatures": {"rows": [1]}},
        {"metafeatures": {"other": 1.0}},
        {"metafeatures": {"rows": 10**400}},
    ],
)
def test_damaged_metafeatures_of_a_state_are_refused(junk: dict[str, Any]) -> None:
    policy = make_policy(ALIKE)
    state = Tuner(SPACE, policy=policy, earlier=two_kinds(), metafeatures={"rows": 1.0}).state()
    with pytest.raises(InputError) as caught:
        Tuner.from_state({**state, **junk}, policy)
    assert "\n" not in str(caught.value)


# ---- what is refused


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"row": 3.0}, "metafeature 'row' is unknown: use rows, columns"),
        ({"rows": "many"}, "'rows' is 'many': give a finite number"),
        ({"rows": True}, "'rows' is 'True'"),
        ({"rows": math.inf}, "'rows' is 'inf'"),
        ({"rows": 1e200}, "'rows' is '1e\\+200'"),
        ({"rows": 1j}, "'rows' is '1j'"),
        ({3: 1.0}, "'3' is no name"),
        ([("rows", 1.0)], "give a dict from names to numbers, not a list"),
    ],
)
def test_mistakes_are_told(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Tuner(SPACE, policy=make_policy(ALIKE), earlier=two_kinds(), metafeatures=given)
    if given != {"row": 3.0}:
        with pytest.raises(InputError, match="metafeatures of earlier task 1"):
            Tuner(
                SPACE,
                policy=make_policy(),
                earlier=[two_kinds()[0], EarlierTask(two_kinds()[0].results, given)],
            )


def test_a_policy_that_knows_no_metafeatures_says_so() -> None:
    with pytest.raises(InputError, match=r"policy 'default' knows no metafeatures.*EarlierTask"):
        Tuner(SPACE, metafeatures={"rows": 3.0})
    assert Tuner(SPACE, metafeatures={}).ask() == Tuner(SPACE).ask()


# ---- policies that know them


def knowing(**changes: Any) -> Policy:
    """A policy that was trained in this space and in another, where it knew metafeatures."""
    one = Described(("rows", "columns"), None, np.zeros(2), np.ones(2))
    other = one._replace(names=("classes",))
    policy = make_policy(COLD)
    facts = {"spaces": {"mine": SPACE.to_dict()}, "metafeatures": {"mine": one, "other": other}, **changes}
    return Policy(policy.name, policy.network, policy.beliefs, 25, 0, **facts)


def test_names_of_all_collections_are_taken_everywhere() -> None:
    """A front end may learn its space as it goes: a name that the policy knows is never wrong."""
    tuner = Tuner(Space([Float("z", 0.0, 1.0)]), policy=knowing(), metafeatures={"rows": 1.0, "classes": 2.0})
    assert tuner.metafeatures == {"rows": 1.0, "classes": 2.0}
    with pytest.raises(InputError, match="use rows, columns, classes"):
        Tuner(SPACE, policy=knowing(), metafeatures={"class": 2.0})


def test_a_network_is_given_what_it_was_trained_to_read() -> None:
    about = Described(("rows", "columns"), 1, np.asarray([2.0, 0.0]), np.asarray([2.0, 1.0]))
    np.testing.assert_array_equal(about.network_input(4, {"rows": 6.0}), [0.0, 2.0, 0.0, 0.0])
    assert about._replace(offset=None).network_input(4, {"rows": 6.0}) is None


def test_the_policy_that_ships_reads_no_metafeatures() -> None:
    policy = default_policy()
    assert policy.metafeatures == {} and policy.network.metafeatures == 0


# ---- the command line


def test_the_verb_suggest_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space, about = tmp_path / "space.json", tmp_path / "about.json"
    space.write_text(json.dumps(SPACE.to_dict()))
    words = ["suggest", "--space", str(space), "--ask", "1", "--metafeatures", str(about)]
    for text, complaint in (("[1]", "give a dict"), ("{", "not JSON"), ('{"a": "b"}', "'a' is 'b'")):
        about.write_text(text)
        assert main(words) == 2
        said = capsys.readouterr().err
        assert complaint in said and str(about) in said
    about.write_text('{"rows": 100}')
    assert main(words) == 2
    assert "knows no metafeatures" in capsys.readouterr().err
    about.write_text('{"rows": null}')
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == Tuner(SPACE).ask()
