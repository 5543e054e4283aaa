"""The Optuna sampler on real studies: what it suggests, what it makes of every kind of trial, its docs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyprl_jax.errors import InputError

optuna = pytest.importorskip("optuna")

from optuna.distributions import (  # noqa: E402
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState  # noqa: E402

from hyprl_jax.frontends import HypRLSampler  # noqa: E402
from hyprl_jax.frontends.optuna_history import result_of  # noqa: E402
from hyprl_jax.runtime import EarlierTask  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def quadratic(trial: Any) -> float:
    x, y = trial.suggest_float("x", -5.0, 5.0), trial.suggest_float("y", 1e-4, 1.0, log=True)
    return float((x - 1.7) ** 2 + (math.log10(y) + 1.1) ** 2)


def conditional(trial: Any) -> float:
    rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
    if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd":
        return float(abs(math.log10(rate) + 1.5) + abs(trial.suggest_float("momentum", 0.0, 1.0) - 0.9))
    return float(abs(math.log10(rate) + 2.5) + 0.5 + 0.01 * trial.suggest_int("steps", 1, 9))


def run(objective: Any, n_trials: int, direction: str = "minimize", **options: Any) -> Any:
    sampler = options.pop("sampler", None) or HypRLSampler(**{"seed": 0, **options})
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.optimize(objective, n_trials=n_trials, catch=(ZeroDivisionError,))
    return study


def suggestions(study: Any) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def learned(study: Any) -> Any:
    trial = study.ask()
    space = study.sampler.infer_relative_search_space(study, study.trials[trial.number])
    study.tell(trial, state=TrialState.FAIL)
    return space


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_far_better_than_a_random_value(direction: str) -> None:
    sign = 1.0 if direction == "minimize" else -1.0
    study = run(lambda trial: sign * quadratic(trial), 25, direction)
    drawn = run(quadratic, 50, sampler=optuna.samplers.RandomSampler(seed=0))
    assert sign * study.best_value < 0.25 * np.median([trial.value for trial in drawn.trials])
    assert sign * study.best_value < sign * study.trials[0].value


def test_the_first_trial_is_the_middle() -> None:
    def objective(trial: Any) -> float:
        trial.suggest_float("share", 0.0, 1.0, step=0.1)
        trial.suggest_int("size", 16, 256, log=True)
        trial.suggest_int("odd", 1, 9, step=2)
        trial.suggest_categorical("kind", ["usual", "other"])
        return quadratic(trial)

    study = run(objective, 1)
    first = study.trials[0].params
    assert first["y"] == pytest.approx(1e-2) and first["share"] == pytest.approx(0.5)
    assert (first["x"], first["size"], first["odd"], first["kind"]) == (0.0, 64, 5, "usual")


def test_the_first_trial_is_drawn_if_so_wished() -> None:
    study = run(quadratic, 1, start="random")
    drawn = run(quadratic, 1, sampler=optuna.samplers.RandomSampler(seed=0))
    assert suggestions(study) == suggestions(drawn)


def test_the_same_seed_gives_the_same_suggestions() -> None:
    assert suggestions(run(conditional, 15)) == suggestions(run(conditional, 15))
    assert suggestions(run(conditional, 15)) != suggestions(run(conditional, 15, seed=1))


def test_a_new_seed_changes_the_suggestions() -> None:
    sampler = HypRLSampler(seed=0)
    sampler.reseed_rng()
    assert suggestions(run(quadratic, 8, sampler=sampler)) != suggestions(run(quadratic, 8))
    study = run(quadratic, 5)
    study.sampler.reseed_rng()
    study.optimize(quadratic, n_trials=5)
    assert suggestions(study)[:5] == suggestions(run(quadratic, 5))
    assert suggestions(study) != suggestions(run(quadratic, 10))


def test_conditional_branches_are_told_apart() -> None:
    study = run(conditional, 25)
    sampler = study.sampler
    kinds = {trial.params["optimizer"] for trial in study.trials}
    assert kinds == {"adam", "sgd"}
    for _ in range(3):
        trial = study.ask()
        given = trial.relative_params
        assert ("momentum" in given, "steps" in given) == (
            given["optimizer"] == "sgd",
            given["optimizer"] == "adam",
        )
        study.tell(trial, conditional(trial))
    assert set(sampler.infer_relative_search_space(study, study.trials[0])) == {
        "rate",
        "optimizer",
        "momentum",
        "steps",
    }


def test_an_unknown_branch_goes_to_the_independent_sampler() -> None:
    class Noted(optuna.samplers.RandomSampler):  # type: ignore[misc, name-defined]
        asked: list[str] = []  # noqa: RUF012

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            self.asked.append(name)
            return super().sample_independent(study, trial, name, distribution)

    study = optuna.create_study(sampler=HypRLSampler(seed=0, independent_sampler=Noted(seed=0)))
    for optimizer in ("adam", "adam", "sgd"):
        study.enqueue_trial({"optimizer": optimizer})
    study.optimize(conditional, n_trials=3)
    assert Noted.asked == ["momentum"]


def test_enqueued_values_are_kept_and_the_rest_fits_them() -> None:
    study = run(conditional, 12)
    study.enqueue_trial({"optimizer": "sgd"})
    study.enqueue_trial({"optimizer": "adam", "rate": 0.5, "steps": 7})
    partly, wholly = study.ask(), study.ask()
    assert partly.relative_params["optimizer"] == "sgd" and "momentum" in partly.relative_params
    study.tell(partly, conditional(partly))
    study.tell(wholly, conditional(wholly))
    assert partly.params["optimizer"] == "sgd"
    assert wholly.params == {"optimizer": "adam", "rate": 0.5, "steps": 7}
    study.optimize(conditional, n_trials=3)
    assert len(study.trials) == 17


@pytest.mark.filterwarnings("ignore:Fixed parameter x with value 99 is out of range")
def test_an_enqueued_value_out_of_range_is_survived() -> None:
    study = run(quadratic, 3)
    study.enqueue_trial({"x": 99, "y": 0.1})
    study.enqueue_trial({"x": 99})
    study.optimize(quadratic, n_trials=5)
    assert all(trial.params["x"] == 99 or abs(trial.params["x"]) <= 5 for trial in study.trials)


def test_failed_trials_and_values_that_are_no_numbers() -> None:
    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if trial.number % 4 == 1:
            raise ZeroDivisionError
        y = trial.suggest_float("y", 0.0, 1.0)
        return {2: math.nan, 3: math.inf}.get(trial.number % 4, x + y)

    study = run(objective, 17)
    states = {state: len(study.get_trials(states=(state,))) for state in TrialState}
    assert states[TrialState.COMPLETE] == 9 and states[TrialState.FAIL] == 8


def test_what_failed_early_is_not_suggested_again() -> None:
    def objective(trial: Any) -> float:
        trial.suggest_float("x", 0.0, 1.0)
        if trial.number > 3:
            raise ZeroDivisionError
        return float(trial.suggest_float("y", 0.0, 1.0))

    study = optuna.create_study(sampler=HypRLSampler(seed=0))
    asked = []
    for _ in range(12):
        trial = study.ask()
        asked.append(tuple(trial.relative_params.items()))
        try:
            study.tell(trial, objective(trial))
        except ZeroDivisionError:
            study.tell(trial, state=TrialState.FAIL)
    assert len(set(asked)) == len(asked)


def test_hyperparameters_that_come_and_go_without_a_reason() -> None:
    def objective(trial: Any) -> float:
        value = quadratic(trial)
        return value + trial.suggest_float("now_and_then", 0.0, 1.0) if trial.number % 3 else value

    study = run(objective, 12)
    assert "now_and_then" in learned(study)
    assert all("now_and_then" in trial.params for trial in study.trials[:12] if trial.number % 3)


@pytest.mark.parametrize("note", ["junk", {"x": "a", "y": math.nan}, {"x": 1e9, "y": True}, None])
def test_notes_of_unknown_origin_are_survived(note: Any) -> None:
    study = run(quadratic, 3)
    for state in (TrialState.FAIL, TrialState.RUNNING):
        study.add_trial(optuna.create_trial(state=state, system_attrs={"hyprl:suggested": note}))
    study.optimize(quadratic, n_trials=3)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 6


def test_the_space_is_unknown_while_all_trials_fail() -> None:
    study = run(lambda trial: trial.suggest_float("x", 0.0, 1.0) / 0.0, 5)
    assert learned(study) == {}
    assert len({trial.params["x"] for trial in study.trials[:5]}) == 5


def test_pruned_trials_are_results_or_failures() -> None:
    def objective(trial: Any) -> float:
        value = quadratic(trial)
        for step in range(4):
            trial.report(value + 4 - step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    sampler = HypRLSampler(seed=0)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    study.optimize(objective, n_trials=25)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert pruned and study.best_value < 5.0
    trials = study.get_trials()
    best = min(t.value for t in study.get_trials(states=(TrialState.COMPLETE,)))
    for trial in pruned:
        told = result_of(trial, trials, "minimize")
        # The reports are the value plus the number of steps that are left, plus one.
        real = trial.intermediate_values[max(trial.intermediate_values)] - (
            4 - max(trial.intermediate_values)
        )
        assert told is not None and told >= best
        assert told == pytest.approx(real, abs=1e-9) or told > real


def finished(number: int, state: Any, value: float | None, reports: dict[int, float]) -> Any:
    trial = optuna.trial.create_trial(
        state=state,
        value=value,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0.0, 1.0)},
        intermediate_values=reports,
    )
    trial.number = number
    return trial


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_result_of_a_pruned_trial(sign: float) -> None:
    direction = "minimize" if sign > 0 else "maximize"
    complete = [
        finished(i, TrialState.COMPLETE, sign * i, {0: sign * (i + 2.0), 1: sign * i}) for i in range(4)
    ]

    def told(reports: dict[int, float], trials: list[Any] = complete) -> float | None:
        return result_of(finished(9, TrialState.PRUNED, None, reports), trials, direction)

    assert told({0: sign * 5.0}) == sign * 3.0
    assert told({0: sign * 0.5}) == 0.0  # no better than the best that was completed
    assert told({}) is None and told({0: math.nan}) is None and told({0: 1.0}, []) is None
    other_scale = [finished(i, TrialState.COMPLETE, sign * i, {0: 100.0 + i}) for i in range(4)]
    assert told({0: 103.0}, other_scale) is None
    silent = [finished(i, TrialState.COMPLETE, sign * i, {}) for i in range(4)]
    assert told({0: sign * 2.0}, silent) is None


def test_pruned_without_any_report_is_like_failed() -> None:
    def objective(trial: Any) -> float:
        value = quadratic(trial)
        if trial.params["x"] < 0:
            raise optuna.TrialPruned
        return value

    study = run(objective, 20)
    assert len(study.get_trials(states=(TrialState.PRUNED,))) < 15
    assert study.best_value < 5.0


def test_ranges_that_change_are_joined() -> None:
    def objective(trial: Any) -> float:
        high = 4 + trial.number % 5
        return abs(trial.suggest_int("n", 1, high) - 3) + trial.suggest_float("x", 0.0, high, step=0.5)

    study = run(objective, 15)
    for trial in study.trials:
        assert 1 <= trial.params["n"] <= 4 + trial.number % 5 and trial.params["x"] <= 4 + trial.number % 5
    assert learned(study)["n"] == IntDistribution(1, 8)
    assert learned(study)["x"] == FloatDistribution(0.0, 8.0, step=0.5)
    assert study.best_value <= 1.0


def test_a_finite_space_that_is_used_up() -> None:
    def objective(trial: Any) -> float:
        return trial.suggest_int("a", 0, 2) + trial.suggest_categorical("b", [0, 10])

    study = run(objective, 12)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 6
    assert len({tuple(trial.params.values()) for trial in study.trials[1:6]}) == 5
    assert study.best_value == 0


def test_choices_of_every_kind_and_single_values() -> None:
    shapes = [(1, 2), (3,), None]

    def objective(trial: Any) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Choices for a categorical distribution should be")
            shape = trial.suggest_categorical("shape", shapes)
        trial.suggest_float("fixed", 2.0, 2.0)
        trial.suggest_int("wide", 0, 2**60)
        flag = trial.suggest_categorical("flag", [True, False])
        mixed = trial.suggest_categorical("mixed", [1, "1", 2.5, math.inf])
        assert shape in shapes and isinstance(flag, bool)
        return len(shape or ()) + (0 if flag else 1) + (0.5 if mixed == "1" else 1.0)

    study = run(objective, 15)
    assert study.best_value == 0.5
    assert set(learned(study)) == {"shape", "flag", "mixed"}


def test_an_objective_without_hyperparameters() -> None:
    assert [trial.value for trial in run(lambda trial: 1.0, 3).trials] == [1.0] * 3


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=HypRLSampler())
    with pytest.raises(InputError, match="one objective, and this one has 2: use NSGAIISampler"):
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=1)


def test_one_sampler_for_two_studies() -> None:
    sampler = HypRLSampler(seed=0)
    studies = [optuna.create_study(sampler=sampler) for _ in range(2)]
    for _ in range(6):
        studies[0].optimize(quadratic, n_trials=1)
        studies[1].optimize(conditional, n_trials=1)
    assert set(learned(studies[0])) == {"x", "y"}
    assert "rate" in learned(studies[1])


def test_a_study_of_the_same_name_begins_anew() -> None:
    sampler, storage = HypRLSampler(seed=0), optuna.storages.InMemoryStorage()
    for _ in range(2):
        study = optuna.create_study(sampler=sampler, storage=storage, study_name="again")
        study.optimize(quadratic, n_trials=4)
        optuna.delete_study(study_name="again", storage=storage)
    other = optuna.create_study(sampler=sampler, storage=storage, study_name="again")
    other.optimize(conditional, n_trials=4)
    assert "x" not in learned(other)


def test_hyperband_shows_one_bracket_at_a_time() -> None:
    def objective(trial: Any) -> float:
        value = quadratic(trial)
        for step in range(9):
            trial.report(value + 1.0 / (1 + step), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
    study = optuna.create_study(sampler=HypRLSampler(seed=0), pruner=pruner)
    study.optimize(objective, n_trials=20)
    assert len(study.trials) == 20


def earlier_study(shift: float, direction: str = "minimize") -> Any:
    sign = 1.0 if direction == "minimize" else -1.0
    study = optuna.create_study(
        direction=direction, sampler=optuna.samplers.RandomSampler(seed=int(shift * 10))
    )
    study.optimize(lambda trial: sign * (quadratic(trial) + shift * trial.params["x"]), n_trials=40)
    return study


def test_earlier_studies_give_a_good_start() -> None:
    earlier = [earlier_study(shift) for shift in (0.1, 0.2, 0.3)]
    warm = run(quadratic, 6, earlier=earlier)
    assert warm.trials[0].value < run(quadratic, 1).trials[0].value
    assert warm.best_value < 1.0
    as_lists = [[(trial.params, trial.value) for trial in study.trials] for study in earlier]
    listed = run(quadratic, 6, earlier=as_lists)
    assert suggestions(listed)[0] == suggestions(run(quadratic, 1))[0]
    assert listed.best_value < 1.0


def test_earlier_studies_on_similar_datasets_count_more() -> None:
    def job(best: float, rows: float) -> EarlierTask:
        study = optuna.create_study(sampler=optuna.samplers.GridSampler({"x": np.linspace(0, 1, 21)}))
        study.optimize(lambda trial: abs(trial.suggest_float("x", 0.0, 1.0) - best), 21)
        return EarlierTask(study, {"rows": rows})

    jobs = [job(best, rows) for best, rows in ((0.1, 1e2), (0.15, 2e2), (0.9, 1e5), (0.95, 2e5))]
    elsewhere = EarlierTask([({"z": 1}, 1.0)], {"columns": 3.0})
    for rows, best in ((1.2e2, 0.1), (1.2e5, 0.9)):
        about = {"rows": rows, "columns": 2.0}
        sampler = HypRLSampler(seed=0, earlier=[*jobs, elsewhere], metafeatures=about)
        trial = optuna.create_study(sampler=sampler).ask()
        assert abs(trial.suggest_float("x", 0.0, 1.0) - best) < 0.2


def test_earlier_results_outside_of_the_space_are_left_out() -> None:
    jobs = [[({"x": 900.0, "y": 0.1}, 0.0), ({"other": 1}, 2.0)], [({"x": 1.0, "y": 0.1, "more": 3}, 1.0)]]
    study = run(quadratic, 5, earlier=jobs)
    assert len(study.trials) == 5


def test_earlier_studies_of_the_other_direction_are_refused() -> None:
    study = optuna.create_study(sampler=HypRLSampler(earlier=[earlier_study(0.1, "maximize")]))
    with pytest.raises(
        InputError, match=r"to minimize and earlier\[0\] to maximize: give that one as a list"
    ):
        study.ask()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"seed": -1}, "seed is -1: give a whole number from 0"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"n_trials": 0}, "n_trials is 0: give a whole number from 1"),
        ({"pool": 2}, "pool is 2: give a whole number from 8"),
        ({"start": "best"}, "start is 'best': use 'middle' or 'random'"),
        ({"independent_sampler": "tpe"}, "independent_sampler is a str: give an Optuna sampler"),
        ({"earlier": [3]}, r"earlier\[0\] is a int: give a study, or a list"),
        ({"earlier": [[({"x": 1}, None)]]}, r"earlier\[0\] has no finite value: leave it out"),
        ({"earlier": [[({"x": 1}, "good")]]}, r"earlier\[0\] holds the value 'good', which is no number"),
        ({"earlier": [[1.0]]}, r"earlier\[0\] holds 1.0: give pairs"),
        ({"earlier": "study"}, "earlier is one job: give a list"),
        ({"earlier": [EarlierTask([({"x": 1}, 1.0)], {"a": "b"})]}, r"of earlier\[0\]: 'a' is 'b'"),
        ({"earlier": [EarlierTask([({"x": 1}, 1.0)], {"a": 1})], "metafeatures": {"b": 1}}, "unknown: use a"),
        ({"metafeatures": {"b": 1}}, "knows no metafeatures"),
        ({"policy": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_arguments_that_cannot_be_used(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        HypRLSampler(**options)


def test_categorical_values_of_another_study_do_not_mix() -> None:
    study = optuna.create_study(sampler=HypRLSampler(seed=0))
    for value in (0, 1):
        for choices in (("a", "b"), ("b", "c")):
            distribution = CategoricalDistribution(choices)
            trial = optuna.create_trial(params={"k": "b"}, distributions={"k": distribution}, value=value)
            try:
                study.add_trial(trial)
            except ValueError:
                continue  # the storage does not take changed choices
    assert study.ask({"k": CategoricalDistribution(("a", "b"))}).params["k"] in ("a", "b")


def test_neither_jax_nor_flax_is_imported() -> None:
    script = (
        "import sys, json, optuna\n"
        "from hyprl_jax.frontends import HypRLSampler\n"
        "study = optuna.create_study(sampler=HypRLSampler(seed=0))\n"
        "study.optimize(lambda t: t.suggest_float('x', 0, 1) + t.suggest_int('n', 1, 5), n_trials=5)\n"
        "print(json.dumps([name for name in ('jax', 'flax', 'pandas') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_examples_of_the_documentation_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = (repository / "docs" / "optuna.md").read_text(encoding="utf-8").split("```python\n")[1:]
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block.partition("```")[0], "docs/optuna.md", "exec"), names)
    assert names["study"].best_value < 1.0
