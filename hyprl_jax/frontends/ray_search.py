"""The policy as a search algorithm of Ray Tune: `tune.TuneConfig(search_alg=HypRLSearch(), ...)`.

The searcher lives in the process that starts the trials and needs NumPy alone; its state is a JSON file, so
that Ray's own checkpoints and `Tuner.restore` go on where the search was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.result import DEFAULT_METRIC
from ray.tune.search import Searcher

from hyprl_jax.errors import InputError
from hyprl_jax.frontends.ray_space import RaySpace, has_domains
from hyprl_jax.runtime import Config, EarlierTask, NothingLeft, Policy, Result, Tuner
from hyprl_jax.runtime.files import read_json, write_json

_FORMAT, _FORMAT_VERSION = "hyprl-ray-search", 1
_DIRECTIONS = {"min": "minimize", "max": "maximize"}
_MOST_BYTES = 256 * 2**20
_FIELDS: dict[str, tuple[type, ...]] = {
    "space": (dict, type(None)),
    "adds_constants": (bool,),
    "tuner": (dict,),
    "live": (dict,),
    "latest": (dict,),
    "points": (list,),
}


class HypRLSearch(Searcher):
    """Chooses the trials of Ray Tune with a pretrained policy.

    Args:
        space: what is searched, if not `param_space` of `tune.Tuner`: a dict with `tune.uniform`,
            `tune.choice` and the like (nested as you please; its constants go to every trial), a
            `hyprl_jax.runtime.Space` or a ConfigSpace (which may have conditions).
        metric, mode: name of the reported result and "min" or "max"; left out, those of `tune.TuneConfig`
            (which Ray passes on only together with a `param_space`).
        policy: a `Policy`, the folder of an exported one, or None for the one that ships with the package.
        n_trials: how many trials are planned; left out, `num_samples` of `tune.TuneConfig`.
        points_to_evaluate: configurations to try first, nested as `param_space` is.
        earlier: results of earlier tasks in the same space: for each task a list of (configuration, value),
            or a `hyprl_jax.runtime.EarlierTask` of one with the metafeatures of its dataset.
        metafeatures: of the dataset that is tuned for, by name: earlier tasks on similar ones count the more.
        seed: of whatever is drawn at random; the same results in the same order give the same suggestions.

    A trial that fails, or ends without a finite metric, is taken to be as bad as the worst. One that is cut
    before its first report is forgotten. What failed has failed, even if `tune.Tuner.restore` runs it again.
    `metric` may be a path ("eval/loss").

    Raises:
        InputError: whatever of this cannot be used, and why.
    """

    # Read by `save_to_dir` and `restore_from_dir` of the base class.
    CKPT_FILE_TMPL = "searcher-state-{}.json"

    def __init__(
        self,
        space: Any = None,
        *,
        metric: str | None = None,
        mode: str | None = None,
        policy: Policy | Path | str | None = None,
        n_trials: int | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        earlier: Sequence[Sequence[tuple[Mapping[str, Any], float]] | EarlierTask] = (),
        metafeatures: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        _check_target(metric, mode)
        super().__init__(metric=metric, mode=mode)
        self._policy, self._n_trials, self._seed = policy, n_trials, seed
        self._points = [dict(point) for point in points_to_evaluate or ()]
        self._earlier = [EarlierTask.of(task) for task in earlier]
        self._metafeatures = metafeatures
        self._given = space is not None
        self._adds_constants = self._given  # Ray adds those of `param_space`
        self._space = RaySpace.of(space) if self._given else None
        self._tuner: Tuner | None = None
        self._queue: list[Config] = []
        self._live: dict[str, Config] = {}
        self._latest: dict[str, float] = {}
        self._restored: dict[str, Any] | None = None

    @property
    def best(self) -> Result | None:
        """The best result so far (its configuration nested as Ray has it), None before the first."""
        best = self._tuner.best if self._tuner is not None else None
        if best is None or self._space is None:
            return None
        return Result(self._space.nest(best.config), best.value)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Takes metric, mode and space from `tune.Tuner`, unless they were given to the searcher.

        Returns:
            False if there are two search spaces, which Ray reports.
        """
        _check_target(metric, mode)
        if self._given and has_domains(config):
            return False
        self._metric = _agreed("metric", self._metric, metric)
        self._mode = _agreed("mode", self._mode, mode)
        if self._tuner is not None:
            self._restored, self._tuner = self._snapshot(), None
        if self._restored is not None:
            # A new run begins: trials of one before it do not come back. (They do with `tune.Tuner.restore`,
            # which calls `restore` after this.)
            self._restored = {**self._restored, "live": {}, "latest": {}}
        planned = spec.get("num_samples")
        if self._n_trials is None and isinstance(planned, int) and planned > 0:
            self._n_trials = planned
        if not self._given:
            self._space, self._adds_constants = RaySpace.of(config), False
        self._start()
        return True

    def suggest(self, trial_id: str) -> Any:
        """The nested configuration of the next trial, "FINISHED" if none is left, None if there may be one
        later, once running trials have ended."""
        tuner, space = self._start()
        if self._queue:
            config = self._queue.pop(0)
            tuner.expect(config)
        else:
            try:
                config = tuner.ask()
            except NothingLeft:
                return None if self._live else Searcher.FINISHED
        self._live[trial_id] = config
        nested = space.nest(config)
        return space.with_constants(nested) if self._adds_constants else nested

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps the latest metric of a trial, for the case that it ends without reporting it once more."""
        value = _number(result.get(str(self._metric)))
        if trial_id in self._live and value is not None:
            self._latest[trial_id] = value

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the result of a trial; trials that were not suggested here are ignored."""
        config = self._live.pop(trial_id, None)
        latest = self._latest.pop(trial_id, None)
        if config is None:
            return
        tuner, _ = self._start()
        if error:
            tuner.tell(config, None)
        elif result and self._metric in result:
            tuner.tell(config, _number(result[self._metric]))
        elif latest is not None or result:
            tuner.tell(config, latest)
        elif config in tuner.pending:
            tuner.forget(config)

    def add_evaluated_point(
        self,
        parameters: Mapping[str, Any],
        value: float | None,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: Sequence[float] | None = None,
    ) -> None:
        """Tells the result of a configuration that was tested elsewhere (`error`: it failed)."""
        tuner, space = self._start()
        tuner.tell(space.flatten(parameters), None if error else _number(value))

    def save(self, checkpoint_path: str) -> None:
        """Writes the state to a JSON file, whole or not at all."""
        write_json(Path(checkpoint_path), self._snapshot(), allow_nan=False)

    def restore(self, checkpoint_path: str) -> None:
        """Goes on from the state that `save` wrote; the search space must be the same.

        Raises:
            InputError: the file is missing or damaged, or belongs to another space or policy.
        """
        self._restored = _read(Path(checkpoint_path))
        self._tuner = None
        metric, mode = self._restored.get("metric"), self._restored.get("mode")
        _check_target(metric, mode)
        self._metric = _agreed("metric", self._metric, metric)
        self._mode = _agreed("mode", self._mode, mode)
        if self._space is None and self._restored["space"] is not None:
            # `tune.Tuner.restore` does not give the space once more.
            self._space = RaySpace.from_dict(self._restored["space"], self._restored["tuner"].get("space"))
            self._adds_constants = self._restored["adds_constants"]
        if self._space is not None:
            self._start()

    def _start(self) -> tuple[Tuner, RaySpace]:
        """The tuner, made when space and target are known, and its space."""
        space = self._space
        if space is None:
            raise InputError(
                "there is nothing to search: give `param_space` to tune.Tuner (and to tune.Tuner.restore)"
            )
        if self._tuner is not None:
            return self._tuner, space
        if self._mode is None:
            raise InputError("there is no target: give HypRLSearch or tune.TuneConfig a metric and a mode")
        self._metric = self._metric or DEFAULT_METRIC
        if self._restored is not None and self._restored["tuner"]:
            self._tuner = self._continue(space, self._restored)
        else:
            queue = [space.flatten(point) for point in self._points]
            self._tuner = Tuner(
                space.space,
                direction=_DIRECTIONS[self._mode],
                trials=self._n_trials,
                policy=self._policy,
                earlier=[
                    EarlierTask(_finite(space, task.results), task.metafeatures) for task in self._earlier
                ],
                metafeatures=self._metafeatures,
                seed=self._seed,
            )
            self._queue = queue
        self._restored = None
        return self._tuner, space

    def _continue(self, space: RaySpace, state: dict[str, Any]) -> Tuner:
        """The tuner of a state; trials that it does not list as live are forgotten."""
        own = json.loads(json.dumps(space.space.to_dict()))
        try:
            if json.loads(json.dumps(state["tuner"]["space"])) != own:
                raise InputError("the state of the searcher belongs to another search space: start a new one")
            # A state is JSON, without the function that forbids configurations: that is the space's.
            tuner = Tuner.from_state(state["tuner"], self._policy, space.space)
            code = space.space.codes([*state["live"].values(), *state["points"]])
        except InputError:
            raise
        except (KeyError, OverflowError, TypeError, ValueError):
            raise InputError("the state of the searcher is damaged: start a new one") from None
        if tuner.direction != _DIRECTIONS[str(self._mode)]:
            raise InputError(f"the state of the searcher belongs to another mode than '{self._mode}'")
        configs = space.space.configs(code)
        self._live = dict(zip(state["live"], configs, strict=False))
        self._latest = {name: float(value) for name, value in state["latest"].items()}
        self._queue = configs[len(self._live) :]
        for config in tuner.pending:
            if config not in self._live.values():
                tuner.forget(config)
        return tuner

    def _snapshot(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "metric": self._metric,
            "mode": self._mode,
        }
        if self._restored is not None:
            return {**self._restored, **state}
        space = self._space
        return {
            **state,
            "space": space.to_dict(self._adds_constants) if space is not None and self._tuner else None,
            "adds_constants": self._adds_constants,
            "tuner": {} if self._tuner is None else self._tuner.state(),
            "live": self._live,
            "latest": self._latest,
            "points": self._queue,
        }


def _check_target(metric: Any, mode: Any) -> None:
    if metric is not None and not isinstance(metric, str):
        raise InputError("one metric is searched for, not several: give its name")
    if mode not in (None, "min", "max"):
        raise InputError(f"mode is {mode!r}: use 'min' or 'max'")


def _agreed(name: str, mine: str | None, other: str | None) -> str | None:
    """The one of two that is given; InputError if both are and differ."""
    if mine is not None and other is not None and mine != other:
        raise InputError(f"the searcher's {name} is '{mine}', not '{other}': give one of them, or start anew")
    return other if mine is None else mine


def _finite(space: RaySpace, task: Sequence[tuple[Mapping[str, Any], Any]]) -> list[tuple[Config, float]]:
    """The results of an earlier task that did not fail, in the space's own configurations."""
    results = [(space.flatten(config), _number(value)) for config, value in task]
    return [(config, value) for config, value in results if value is not None]


def _number(value: Any) -> float | None:
    """The value as a float, None where it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read(path: Path) -> dict[str, Any]:
    """The state in a file, its outer part checked (the tuner checks its own)."""
    state = read_json(path, _MOST_BYTES, "it is no state of a searcher or it is damaged")
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise InputError(f"{path}: not the state of a searcher")
    if state.get("format_version") != _FORMAT_VERSION:
        raise InputError(
            f"{path}: of another version: start anew and add the results with add_evaluated_point"
        )
    sound = all(type(state.get(name)) in kinds for name, kinds in _FIELDS.items())
    if not sound or not all(_number(value) is not None for value in state["latest"].values()):
        raise InputError(f"{path}: damaged")
    if not all(isinstance(config, dict) for config in [*state["live"].values(), *state["points"]]):
        raise InputError(f"{path}: damaged: a configuration is no object")
    return state
