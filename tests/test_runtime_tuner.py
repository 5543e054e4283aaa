"""Ask and tell: what is suggested is legal and new, what is told counts, and nothing depends on chance."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_examples import COLD, LEARNED, make_policy

from hyprl_jax.errors import InputError
from hyprl_jax.runtime import Categorical, Float, Integer, NothingLeft, Space, Tuner, when

POLICY = make_policy()
SPACE = Space(
    [
        Float("rate", 1e-5, 1.0, log=True),
        Integer("depth", 1, 12),
        Categorical("kind", ["plain", "momentum"]),
        Float("momentum", 0.0, 0.99),
    ],
    {"momentum": when("kind", "momentum")},
)


def loss(config: dict[str, Any]) -> float:
    kind = 0.3 if config["kind"] == "plain" else (config["momentum"] - 0.8) ** 2
    return (math.log10(config["rate"]) + 2.5) ** 2 / 4 + (config["depth"] - 5) ** 2 / 20 + kind


def run(tuner: Tuner, trials: int, sign: float = 1.0) -> list[dict[str, Any]]:
    asked = []
    for _ in range(trials):
        config = tuner.ask()
        asked.append(config)
        tuner.tell(config, sign * loss(config))
    return asked


def test_it_finds_a_good_configuration_in_few_trials() -> None:
    drawn = SPACE.configs(SPACE.from_positions(np.random.default_rng(0).random((2000, 4))))
    best_tenth = np.quantile([loss(config) for config in drawn], 0.1)
    for seed in range(3):
        tuner = Tuner(SPACE, policy=make_policy(strength=0.0), seed=seed)
        run(tuner, 40)
        assert tuner.best is not None and tuner.best.value < 0.5 * best_tenth


def test_the_same_seed_gives_the_same_suggestions_and_directions_mirror() -> None:
    first, second = Tuner(SPACE, policy=POLICY, seed=3), Tuner(SPACE, policy=POLICY, seed=3)
    assert run(first, 12) == run(second, 12)
    assert run(Tuner(SPACE, policy=POLICY, seed=4), 12) != run(Tuner(SPACE, policy=POLICY, seed=3), 12)
    up = Tuner(SPACE, policy=POLICY, seed=3, direction="maximize")
    assert run(up, 12, sign=-1.0) == [result.config for result in first.results]
    assert up.best is not None and first.best is not None and up.best.config == first.best.config


def test_nothing_is_suggested_twice_and_everything_is_of_the_space() -> None:
    tuner = Tuner(SPACE, policy=POLICY, pool=32)
    asked = run(tuner, 60)
    SPACE.codes(asked)
    assert len({json.dumps(config, sort_keys=True) for config in asked}) == 60


def test_integers_around_zero_are_used_up_one_by_one() -> None:
    tuner = Tuner(Space([Integer("a", 0, 39), Integer("b", -14, 15)]), policy=POLICY)
    asked = [tuple(config.values()) for config in tuner.ask_many(200)]
    assert len(set(asked)) == 200
    tuner.forget({"a": 0, "b": 0} if (0, 0) in asked else dict(zip("ab", asked[0], strict=True)))


def test_a_table_is_used_up_and_then_says_so() -> None:
    table = [{"x": x, "y": y} for x in (0.0, 0.5, 1.0) for y in ("a", "b")]
    tuner = Tuner(candidates=table, policy=POLICY)
    asked = []
    for _ in table:
        config = tuner.ask()
        asked.append(config)
        tuner.tell(config, config["x"])
    assert sorted(map(str, asked)) == sorted(map(str, table))
    with pytest.raises(NothingLeft):
        tuner.ask()
    assert tuner.ask_many(3) == []


def test_several_at_a_time_are_different_and_wait_for_their_results() -> None:
    tuner = Tuner(SPACE, policy=POLICY)
    run(tuner, 5)
    batch = tuner.ask_many(6)
    assert len({str(config) for config in batch}) == 6 and tuner.pending == batch
    for config in reversed(batch):  # in whatever order
        tuner.tell(config, loss(config))
    assert tuner.pending == [] and len(tuner.results) == 11


def test_pending_trials_keep_others_away() -> None:
    grid = [{"x": float(x)} for x in np.linspace(0, 1, 101)]
    tuner = Tuner(candidates=grid, policy=make_policy(strength=0.0))
    for x in (0.0, 1.0, 0.3):
        tuner.tell({"x": x}, (x - 0.6) ** 2)
    first, second = tuner.ask(), tuner.ask()
    alone = Tuner(candidates=grid, policy=make_policy(strength=0.0))
    for x in (0.0, 1.0, 0.3):
        alone.tell({"x": x}, (x - 0.6) ** 2)
    alone.ask()
    alone._pending.clear()
    runner_up = sorted(alone._pool.episode.promise())[-2]
    place = int(np.flatnonzero(alone._pool.episode.promise() == runner_up)[0])
    assert abs(second["x"] - first["x"]) > abs(grid[place]["x"] - first["x"])


def test_a_forgotten_suggestion_may_come_again_and_an_expected_one_may_not() -> None:
    tuner = Tuner(SPACE, policy=POLICY)
    run(tuner, 4)
    config = tuner.ask()
    tuner.forget(config)
    assert tuner.pending == [] and tuner.ask() == config
    twin = Tuner(SPACE, policy=POLICY)
    run(twin, 4)
    twin.expect(config)
    assert twin.ask() != config
    with pytest.raises(InputError, match="was not asked for"):
        twin.forget({"rate": 0.5, "depth": 3, "kind": "plain"})


def test_configurations_of_the_users_own_count_as_results() -> None:
    tuner = Tuner(SPACE, policy=POLICY)
    mine = {"rate": 3e-3, "depth": 5, "kind": "momentum", "momentum": 0.8}
    tuner.tell(mine, loss(mine))
    assert tuner.best is not None and tuner.best.config == mine
    assert all(config != mine for config in run(tuner, 10))


@pytest.mark.parametrize("failure", [None, float("nan"), float("inf"), -float("inf")])
def test_failed_trials_are_avoided_as_the_worst_ones_are(failure: float | None) -> None:
    tuner = Tuner(SPACE, policy=make_policy(strength=0.0))
    failed = {"rate": 0.9, "depth": 12, "kind": "plain"}
    tuner.tell(failed, failure)
    assert tuner.best is None and tuner.results[0].value is None
    run(tuner, 3)
    assert tuner._pool.episode.posterior.objectives.count(-max(r.value or 0.0 for r in tuner.results)) >= 1
    assert all(config != failed for config in run(tuner, 10))
    tuner.tell({"rate": 0.8, "depth": 11, "kind": "plain"}, failure)
    assert len(tuner._pool.episode.posterior.objectives) == len(tuner.results)


def test_only_failures_so_far_still_give_new_suggestions() -> None:
    tuner = Tuner(SPACE, policy=POLICY)
    asked = []
    for _ in range(5):
        asked.append(tuner.ask())
        tuner.tell(asked[-1], None)
    assert len({str(config) for config in asked}) == 5


@pytest.mark.parametrize("beliefs", [COLD, LEARNED])
def test_earlier_tasks_lead_to_their_good_region(beliefs: Any) -> None:
    generator = np.random.default_rng(0)
    earlier = []
    for shift in (-0.1, 0.0, 0.1):
        configs = SPACE.configs(SPACE.from_positions(generator.random((60, 4))))
        earlier.append([(config, loss(config) * (1 + shift) + shift) for config in configs])
    informed = Tuner(SPACE, policy=make_policy(beliefs, strength=0.0), earlier=earlier)
    values = [loss(config) for config in run(informed, 5)]
    cold = [loss(config) for config in run(Tuner(SPACE, policy=make_policy(strength=0.0)), 5)]
    assert min(values) < min(cold) and values[0] < np.quantile([v for t in earlier for _, v in t], 0.2)


@pytest.mark.parametrize("beliefs", [COLD, LEARNED])
def test_the_state_goes_through_json_and_on_as_before(beliefs: Any, tmp_path: Path) -> None:
    policy = make_policy(beliefs)
    tuner = Tuner(SPACE, policy=policy, trials=40, seed=5, direction="maximize")
    for number in range(8):
        batch = tuner.ask_many(3)
        for config in batch[:2]:
            tuner.tell(config, None if number == 3 else -loss(config))
    tuner.save(tmp_path / "state.json")
    again = Tuner.load(tmp_path / "state.json", policy)
    assert again.results == tuner.results and again.pending == tuner.pending
    for _ in range(6):
        left, right = tuner.ask_many(2), again.ask_many(2)
        assert left == right
        for config in left:
            tuner.tell(config, -loss(config))
            again.tell(config, -loss(config))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_state_is_refused_in_one_line(data: st.DataObject) -> None:
    tuner = Tuner(SPACE, policy=POLICY)
    run(tuner, 2)
    tuner.ask()
    state = json.loads(json.dumps(tuner.state()))
    name = data.draw(st.sampled_from(sorted(state)))
    junk = (
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=2)
    )
    state[name] = data.draw(junk)
    try:
        Tuner.from_state(state, POLICY)
    except InputError as error:
        assert "\n" not in str(error)


def test_a_state_is_bound_to_its_policy_by_name(tmp_path: Path) -> None:
    tuner = Tuner(SPACE, policy=POLICY)
    state = tuner.state() | {"policy": "another"}
    with pytest.raises(InputError, match="made with the policy 'another'"):
        Tuner.from_state(state, POLICY)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Tuner.load(tmp_path / "state.json", POLICY)
    with pytest.raises(InputError, match="cannot be read"):
        Tuner.load(tmp_path / "none.json", POLICY)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to choose from"),
        ({"space": SPACE, "direction": "up"}, "use 'minimize' or 'maximize'"),
        ({"space": SPACE, "trials": 0}, "trials is 0"),
        ({"space": SPACE, "pool": 3}, "pool is 3"),
        ({"candidates": []}, "no candidates"),
        ({"space": SPACE, "pool": "many"}, "pool is many"),
        ({"space": SPACE, "seed": "x"}, "seed is x"),
        ({"space": SPACE, "candidates": [{"rate": 1.0}]}, "'depth' has no value"),
        ({"space": SPACE, "earlier": [[({"rate": 2.0}, 1.0)]]}, "2.0 is not of the kind float"),
        ({"space": SPACE, "earlier": [[]]}, "earlier task 0 has no finite result"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Tuner(options.pop("space", None), policy=POLICY, **options)


def test_a_result_that_is_no_number_changes_nothing() -> None:
    tuner = Tuner(SPACE, policy=POLICY)
    config = tuner.ask()
    with pytest.raises(InputError, match="is no number"):
        tuner.tell(config, "good")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not in the space"):
        tuner.tell(config | {"other": 1}, 0.5)
    assert tuner.results == [] and tuner.pending == [config]


def test_huge_and_tiny_results_do_no_harm() -> None:
    tuner = Tuner(SPACE, policy=POLICY)
    for value in (1e30, 1e-30, -1e30, 3.0, 3.0, 3.0, 1e12, 1e308, -1.7e308, 10**400):
        tuner.tell(tuner.ask(), value)
    assert np.isfinite(tuner._pool.episode.promise()).all()


def test_neither_jax_nor_anything_else_is_needed() -> None:
    program = """
import sys
from hyprl_jax.runtime import Float, Space, Tuner
tuner = Tuner(Space([Float("x", 0.0, 1.0)]))
for _ in range(3):
    config = tuner.ask()
    tuner.tell(config, config["x"] ** 2)
heavy = {"jax", "flax", "optax", "pandas", "scipy", "ConfigSpace", "sklearn", "optuna", "ray", "torch"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
