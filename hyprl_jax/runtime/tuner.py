"""Ask and tell with a pretrained policy: the plain interface that every front end is built on.

tuner = Tuner(Space([Float("learning_rate", 1e-5, 1e-1, log=True), Integer("depth", 2, 12)]))
for _ in range(25):
    config = tuner.ask()
    tuner.tell(config, validation_loss(config))
tuner.best
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.runtime import state as states
from hyprl_jax.runtime.background import Background
from hyprl_jax.runtime.episode import Episode
from hyprl_jax.runtime.files import write_json
from hyprl_jax.runtime.metafeatures import EarlierTask, checked
from hyprl_jax.runtime.policy import Policy, as_policy
from hyprl_jax.runtime.pool import Pool
from hyprl_jax.runtime.space import Config, Space, plain

_AROUND = 4  # best results around which new candidates are drawn
_POOL, _LARGEST_POOL = 384, 2**20
_REDRAWN = 8  # times that new candidates are drawn before a large discrete space counts as used up
_LARGEST_VALUE = 1e100  # results beyond it count as failed, as infinite ones do


class NothingLeft(LookupError):  # noqa: N818 - it is no fault, as StopIteration is none
    """Every configuration of a table or of a small discrete space has been suggested."""


class Result(NamedTuple):
    """One trial that was told."""

    config: Config
    value: float | None
    """None: the trial failed."""


class Tuner:
    """Chooses which configuration to test next.

    Args:
        space: a `Space`, a `ConfigSpace.ConfigurationSpace`, or the dict of `Space.to_dict`. May be left out
            if `candidates` are given.
        candidates: the only configurations to choose from, a list of dicts (a table's rows). Without them,
            candidates are drawn from the space and renewed around good results.
        direction: "minimize" or "maximize".
        trials: how many results are planned, or None if that is not known.
        policy: a `Policy`, the folder of an exported one, or None for the one that ships with the package.
        earlier: results of earlier tasks in the same space: for each task a list of (configuration, value),
            or an `EarlierTask` of one with the metafeatures of its dataset.
        metafeatures: of the dataset that is tuned for, by name; those left out are unknown. Earlier tasks
            count the more, the more alike their datasets are. None: all earlier tasks count the same.
        seed: of whatever is drawn at random; the same results give the same suggestions.
        pool: number of drawn candidates that are considered at a time.

    Raises:
        InputError: whatever of this cannot be used, and why.
    """

    def __init__(
        self,
        space: Any = None,
        *,
        candidates: Sequence[Mapping[str, Any]] | None = None,
        direction: str = "minimize",
        trials: int | None = None,
        policy: Policy | Path | str | None = None,
        earlier: Sequence[Sequence[tuple[Mapping[str, Any], float]] | EarlierTask] = (),
        metafeatures: Mapping[str, float] | None = None,
        seed: int = 0,
        pool: int = _POOL,
    ) -> None:
        if direction not in ("minimize", "maximize"):
            raise InputError(f"direction is {direction!r}: use 'minimize' or 'maximize'")
        if trials is not None:
            _check_whole("trials", trials, 1, 2**53)
        _check_whole("pool", pool, 8, _LARGEST_POOL)
        _check_whole("seed", seed, -(2**63), 2**64)
        if space is None and candidates is None:
            raise InputError("nothing to choose from: give a space or candidates")
        listed = None if candidates is None else [plain(config) for config in candidates]
        if listed is not None and not listed:
            raise InputError("there are no candidates")
        self.space = Space.infer(listed or []) if space is None else Space.of(space)
        self.direction, self.trials, self.seed, self.pool = direction, trials, int(seed), int(pool)
        self.policy = as_policy(policy)
        self.results: list[Result] = []
        self._sign = -1.0 if direction == "minimize" else 1.0
        self._listed = listed
        tasks = [EarlierTask.of(task) for task in earlier]
        self._earlier = [[(plain(c), _number_or_none(value)) for c, value in task.results] for task in tasks]
        self._described = [
            checked(task.metafeatures or {}, f"metafeatures of earlier task {number}")
            for number, task in enumerate(tasks)
        ]
        self.metafeatures = None if metafeatures is None else checked(metafeatures)
        self._pending: dict[bytes, int] = {}
        self._failures: list[int] = []
        self._worst = math.inf
        self._renewed: list[tuple[int, list[Config]]] = []
        self._twin: Episode | None = None
        known = Background.of(
            self.policy, self.space, self._earlier, self._described, self.metafeatures, self._sign
        )

        def begin(encodings: np.ndarray, values: np.ndarray) -> Episode:
            posterior = known.posterior(self.space, encodings, values)
            return Episode(self.policy, posterior, encodings, trials, known.inputs)

        self._pool = Pool(self.space, listed, self.pool, known.surfaces, self._generator(0), begin)

    @property
    def best(self) -> Result | None:
        """The best result so far, None before the first that did not fail."""
        done = [result for result in self.results if result.value is not None]
        return max(done, key=lambda result: self._sign * float(result.value or 0.0)) if done else None

    @property
    def pending(self) -> list[Config]:
        """Configurations that were asked for and not told yet, in the order of asking."""
        return self.space.configs(self._pool.codes[list(self._pending.values())])

    def ask(self) -> Config:
        """The configuration to test next. Those asked for and not told yet are taken into account by what is
        expected of them, so that several can be tested at a time.

        Raises:
            NothingLeft: every configuration has been suggested.
        """
        self._renew()
        column = self._choose()
        for attempt in range(_REDRAWN if not self._pool.finite else 0):
            if column >= 0:
                break
            self._draw(self._generator(len(self.results), attempt + 1))
            column = self._choose()
        if column < 0:
            raise NothingLeft("every configuration has been suggested")
        self._pending[self._pool.codes[column].tobytes()] = column
        if self._twin is not None:
            self._twin.observe(column, self._twin.expectation(column))
        return self._pool.config(column)

    def ask_many(self, count: int) -> list[Config]:
        """Up to `count` configurations to test side by side (fewer if no more are left)."""
        found: list[Config] = []
        while len(found) < count:
            try:
                found.append(self.ask())
            except NothingLeft:
                break
        return found

    def tell(self, config: Mapping[str, Any], value: float | None) -> None:
        """The result of a configuration, suggested or not; None, NaN or infinity (or beyond 1e100): the
        trial failed.

        A failed configuration is taken to be as bad as the worst result so far.

        Raises:
            InputError: the configuration is not of the space, or the value is no number; nothing changes.
        """
        number = _number_or_none(value)
        code = self.space.codes([config])[0]
        column = self._pool.column_of(code)
        self._pending.pop(code.tobytes(), None)
        self._twin = None
        self.results.append(Result(self.space.configs(code[None])[0], number))
        if number is None:
            self._failures.append(column)
            self._pool.episode.exclude(column)
        else:
            self._worst = min(self._worst, self._sign * number)
            self._pool.episode.observe(column, self._sign * number)
        if math.isfinite(self._worst):
            for failed in self._failures:
                self._pool.episode.observe(failed, self._worst)
            self._failures = []

    def forget(self, config: Mapping[str, Any]) -> None:
        """A configuration that was asked for will not be told: it may be suggested again."""
        key = self.space.codes([config])[0].tobytes()
        if key not in self._pending:
            raise InputError(f"{dict(config)} was not asked for, or has been told")
        del self._pending[key]
        self._twin = None

    def expect(self, config: Mapping[str, Any]) -> None:
        """A configuration that was not asked for is being tested: it counts as pending until it is told."""
        code = self.space.codes([config])[0]
        self._pending[code.tobytes()] = self._pool.column_of(code)
        self._twin = None

    def state(self) -> dict[str, Any]:
        """Everything needed to go on with the same suggestions, JSON-able (the policy by its name alone, and
        without `permits` of the space)."""
        return {
            "format": states.FORMAT,
            "format_version": states.FORMAT_VERSION,
            "space": self.space.to_dict(),
            "candidates": self._listed,
            "direction": self.direction,
            "trials": self.trials,
            "earlier": [[[config, value] for config, value in task] for task in self._earlier],
            "earlier_metafeatures": self._described,
            "metafeatures": self.metafeatures,
            "seed": self.seed,
            "pool": self.pool,
            "policy": self.policy.name,
            "results": [[result.config, result.value] for result in self.results],
            "pending": self.pending,
            "renewed": [[done, pending] for done, pending in self._renewed],
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], policy: Policy | Path | str | None = None, space: Any = None
    ) -> Tuner:
        """The tuner whose `state` this is; `space` stands in for the one in it, which has lost `permits`.

        Raises:
            InputError: the state is damaged, or was made with a policy of another name than `policy`.
        """
        state = states.check(state)
        names = ("candidates", "direction", "trials", "metafeatures", "seed", "pool")
        options = {name: state[name] for name in names}
        tuner = cls(
            Space.from_dict(state["space"]) if space is None else space,
            policy=policy,
            earlier=[
                EarlierTask(*task)
                for task in zip(state["earlier"], state["earlier_metafeatures"], strict=True)
            ],
            **options,
        )
        if tuner.policy.name != state["policy"]:
            raise InputError(
                f"the state was made with the policy '{state['policy'][:100]}', not '{tuner.policy.name}'"
            )
        renewed = dict(state["renewed"])
        for done in range(len(state["results"]) + 1):
            if done in renewed:
                tuner._pending = {}
                for config in renewed[done]:
                    tuner.expect(config)
                tuner._renew()
            if done < len(state["results"]):
                tuner.tell(*state["results"][done])
        tuner._pending = {}
        for config in state["pending"]:
            tuner.expect(config)
        return tuner

    def save(self, path: Path | str) -> None:
        """Writes `state` to a JSON file, whole or not at all."""
        write_json(Path(path), self.state())

    @classmethod
    def load(cls, path: Path | str, policy: Policy | Path | str | None = None) -> Tuner:
        """The tuner that `save` wrote; raises as `from_state` does."""
        return cls.from_state(states.read(path), policy)

    def _imagined(self) -> Episode:
        """The episode as if every pending trial had brought what is expected of it."""
        if not self._pending:
            return self._pool.episode
        if self._twin is None:
            self._twin = self._pool.episode.copy()
            for column in self._pending.values():
                self._twin.observe(column, self._twin.expectation(column))
        return self._twin

    def _choose(self) -> int:
        """The column to test next, -1 if no candidate is left."""
        return self._imagined().judge().choice

    def _renew(self) -> None:
        """Renews the drawn candidates, once after a result."""
        done = len(self.results)
        if self._pool.finite or done == 0 or (self._renewed and self._renewed[-1][0] == done):
            return
        self._renewed.append((done, self.pending))
        self._draw(self._generator(done))

    def _draw(self, generator: np.random.Generator) -> None:
        ranked = sorted(
            (result for result in self.results if result.value is not None),
            key=lambda result: -self._sign * float(result.value or 0.0),
        )
        good = [result.config for result in ranked[:_AROUND]]
        self._pool.renew(good, [*self._pending.values(), *self._failures], generator)
        self._twin = None

    def _generator(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % 2**32, *numbers])


def _number_or_none(value: float | None) -> float | None:
    """The value as a float, None for a failed trial."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise InputError(f"the result {value!r} is no number (None or NaN: the trial failed)")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if abs(number) <= _LARGEST_VALUE else None


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise InputError(f"{name} is {str(value)[:50]}: give a whole number of at least {least}")
