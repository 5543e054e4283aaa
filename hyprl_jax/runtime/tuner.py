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
from hyprl_jax.runtime import candidates as sources
from hyprl_jax.runtime import state as states
from hyprl_jax.runtime.belief import Beliefs, Posterior
from hyprl_jax.runtime.cold import ColdPosterior
from hyprl_jax.runtime.episode import Episode
from hyprl_jax.runtime.policy import Policy, default_policy, load_policy
from hyprl_jax.runtime.prior import EarlierTasks, Surfaces, gather
from hyprl_jax.runtime.space import Config, Space

_RENEWED = 0.25  # share of the drawn candidates that gives way to new ones after a result
_AROUND = 4  # best results around which new candidates are drawn
_POOL = 384


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
        earlier: results of earlier tasks in the same space: for each task a list of (configuration, value).
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
        earlier: Sequence[Sequence[tuple[Mapping[str, Any], float]]] = (),
        seed: int = 0,
        pool: int = _POOL,
    ) -> None:
        if direction not in ("minimize", "maximize"):
            raise InputError(f"direction is {direction!r}: use 'minimize' or 'maximize'")
        if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
            raise InputError(f"trials is {trials!r}: give a whole number of at least 1, or None")
        if pool < 8:
            raise InputError(f"pool is {pool}: give at least 8")
        if space is None and candidates is None:
            raise InputError("nothing to choose from: give a space or candidates")
        listed = None if candidates is None else [dict(config) for config in candidates]
        if listed is not None and not listed:
            raise InputError("there are no candidates")
        self.space = Space.infer(listed or []) if space is None else Space.of(space)
        self.direction, self.trials, self.seed, self.pool = direction, trials, int(seed), int(pool)
        self.policy = policy if isinstance(policy, Policy) else _load(policy)
        self.results: list[Result] = []
        self._sign = -1.0 if direction == "minimize" else 1.0
        self._listed = listed
        self._earlier = [[(dict(config), value) for config, value in task] for task in earlier]
        self._pending: dict[bytes, int] = {}
        self._failures: list[int] = []
        self._worst = math.inf
        self._renewed: list[tuple[int, list[Config]]] = []
        self._twin: Episode | None = None
        known = self._known_space()
        self._surfaces = self._prior(known)
        self._beliefs = self._assumptions(known)
        self._finite = True
        self._codes = self._first_candidates(listed)
        self._columns = {row.tobytes(): column for column, row in enumerate(self._codes)}
        self._episode = self._begin()

    @property
    def best(self) -> Result | None:
        """The best result so far, None before the first that did not fail."""
        done = [result for result in self.results if result.value is not None]
        return max(done, key=lambda result: self._sign * float(result.value or 0.0)) if done else None

    @property
    def pending(self) -> list[Config]:
        """Configurations that were asked for and not told yet, in the order of asking."""
        return self.space.configs(self._codes[list(self._pending.values())])

    def ask(self) -> Config:
        """The configuration to test next. Those asked for and not told yet are taken into account by what is
        expected of them, so that several can be tested at a time.

        Raises:
            NothingLeft: every configuration has been suggested.
        """
        self._renew()
        episode = self._imagined()
        if self._pending or self.results or episode.posterior.informed:
            column = episode.judge().choice
        else:
            column = self._most_central()
        if column < 0:
            raise NothingLeft("every configuration has been suggested")
        self._pending[self._codes[column].tobytes()] = column
        if self._twin is not None:
            self._twin.observe(column, self._twin.expectation(column))
        return self.space.configs(self._codes[column : column + 1])[0]

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
        """The result of a configuration, suggested or not; None, NaN or infinity: the trial failed.

        A failed configuration is taken to be as bad as the worst result so far.

        Raises:
            InputError: the configuration is not of the space, or the value is no number; nothing changes.
        """
        number = _number_or_none(value)
        code = self.space.codes([config])[0]
        column = self._column_of(code)
        self._pending.pop(code.tobytes(), None)
        self._twin = None
        self.results.append(Result(self.space.configs(code[None])[0], number))
        if number is None:
            self._failures.append(column)
            self._episode.exclude(column)
        else:
            self._worst = min(self._worst, self._sign * number)
            self._episode.observe(column, self._sign * number)
        if math.isfinite(self._worst):
            for failed in self._failures:
                self._episode.observe(failed, self._worst)
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
        self._pending[code.tobytes()] = self._column_of(code)
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
            "seed": self.seed,
            "pool": self.pool,
            "policy": self.policy.name,
            "results": [[result.config, result.value] for result in self.results],
            "pending": self.pending,
            "renewed": [[done, pending] for done, pending in self._renewed],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], policy: Policy | Path | str | None = None) -> Tuner:
        """The tuner whose `state` this is.

        Raises:
            InputError: the state is damaged, or was made with a policy of another name than `policy`.
        """
        state = states.check(state)
        options = {name: state[name] for name in ("candidates", "direction", "trials", "seed", "pool")}
        space = Space.from_dict(state["space"])
        tuner = cls(space, policy=policy, earlier=state["earlier"], **options)
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
        states.write(path, self.state())

    @classmethod
    def load(cls, path: Path | str, policy: Policy | Path | str | None = None) -> Tuner:
        """The tuner that `save` wrote; raises as `from_state` does."""
        return cls.from_state(states.read(path), policy)

    def _imagined(self) -> Episode:
        """The episode as if every pending trial had brought what is expected of it."""
        if not self._pending:
            return self._episode
        if self._twin is None:
            self._twin = self._episode.copy()
            for column in self._pending.values():
                self._twin.observe(column, self._twin.expectation(column))
        return self._twin

    def _known_space(self) -> str | None:
        """The collection that the policy was trained on whose space this is, if there is one."""
        mine = self.space.to_dict()
        return next((name for name, space in self.policy.spaces.items() if space == mine), None)

    def _prior(self, known: str | None) -> Surfaces | None:
        """The earlier tasks: those given, else those that the policy carries for this space."""
        if self._earlier:
            return Surfaces(gather(self.space, self._earlier, self._sign), self.space)
        carried = self.policy.prior.get(known) if known else None
        return Surfaces(_fitting(carried, self.space), self.space) if carried is not None else None

    def _assumptions(self, known: str | None) -> Beliefs:
        width = self.policy.encoding_features
        if width and width != len(self.space.feature_names):
            raise InputError(
                f"policy '{self.policy.name}' reads encodings of {width} features and works in its own space "
                f"only; this space has {len(self.space.feature_names)}"
            )
        beliefs = self.policy.numbers.get(known or "", self.policy.beliefs)
        scales = beliefs.lengthscale
        if isinstance(scales, tuple) and len(scales) != len(self.space.feature_names):
            raise InputError(f"policy '{self.policy.name}' has lengthscales for another space")
        # Earlier tasks are worth more than a cold start, even to a policy that was trained for one.
        return beliefs._replace(prior="learned") if self._earlier else beliefs

    def _first_candidates(self, listed: list[Config] | None) -> np.ndarray:
        """Codes `[N, P]`; sets whether there are no others."""
        if listed is not None:
            return sources.distinct(self.space.codes(listed))
        everything = sources.enumerate_all(self.space)
        if everything is not None and len(everything):
            return everything
        self._finite = False
        found = sources.quasi_random(self.space, self.pool, self._generator(0))
        if not len(found):
            raise InputError("the space forbids every configuration that was tried")
        return found

    def _begin(self) -> Episode:
        encodings = self.space.features(self._codes).astype(np.float64)
        surfaces = self._surfaces
        lower, span = (surfaces.lower, surfaces.span) if surfaces else (np.zeros(0), np.zeros(0))
        posterior: Posterior | ColdPosterior
        if self._beliefs.prior == "cold":
            posterior = ColdPosterior(encodings, self._beliefs)
        else:
            posterior = Posterior(encodings, self._values(encodings), lower, span, self._beliefs)
        return Episode(self.policy, posterior, encodings, self.trials)

    def _values(self, encodings: np.ndarray) -> np.ndarray:
        return self._surfaces.at(encodings) if self._surfaces else np.zeros((0, len(encodings)))

    def _most_central(self) -> int:
        """The legal candidate nearest to the middle of all: with nothing known, a better guess than a
        corner."""
        encodings = self._episode.encodings
        apart = ((encodings - encodings.mean(0)) ** 2).sum(1)
        apart = np.where(self._episode.legal, apart, np.inf)
        return int(np.argmin(apart)) if self._episode.legal.any() else -1

    def _column_of(self, code: np.ndarray) -> int:
        """The column of a configuration, which becomes a candidate if it is none yet."""
        key = code.tobytes()
        if key not in self._columns:
            encodings = self.space.features(code[None]).astype(np.float64)
            column = int(self._episode.append(encodings, self._values(encodings))[0])
            self._codes = np.concatenate([self._codes, code[None]])
            self._columns[key] = column
        return self._columns[key]

    def _renew(self) -> None:
        """Draws new candidates, around good results and anywhere, in the place of the least promising;
        once after a result."""
        done = len(self.results)
        if self._finite or done == 0 or (self._renewed and self._renewed[-1][0] == done):
            return
        self._renewed.append((done, self.pending))
        generator = self._generator(done)
        fresh = self._fresh_candidates(generator)
        if not len(fresh):
            return
        episode = self._episode
        free = episode.legal.copy()
        free[[*self._pending.values(), *self._failures]] = False
        places = np.flatnonzero(free)
        missing = self.pool - len(places)
        if missing > 0:  # what was tested is no candidate any more
            self._add(fresh[:missing])
            fresh = fresh[missing:]
        if len(fresh):
            worst = places[np.argsort(episode.promise()[places], kind="stable")[: len(fresh)]]
            self._put(worst, fresh[: len(worst)])
        self._twin = None

    def _fresh_candidates(self, generator: np.random.Generator) -> np.ndarray:
        """Codes `[M, P]` of candidates that were not there before."""
        count = max(4, int(self.pool * _RENEWED))
        ranked = sorted(
            (result for result in self.results if result.value is not None),
            key=lambda result: -self._sign * float(result.value or 0.0),
        )
        parts = [sources.quasi_random(self.space, count // 4 + 1, generator)]
        if ranked:
            good = self.space.codes([result.config for result in ranked[:_AROUND]])
            parts.append(sources.neighbours(self.space, good, count - count // 4, generator))
        drawn = sources.distinct(np.concatenate(parts[::-1]))
        return drawn[[row.tobytes() not in self._columns for row in drawn]]

    def _add(self, codes: np.ndarray) -> None:
        encodings = self.space.features(codes).astype(np.float64)
        columns = self._episode.append(encodings, self._values(encodings))
        self._codes = np.concatenate([self._codes, codes])
        self._columns |= {row.tobytes(): int(c) for row, c in zip(codes, columns, strict=True)}

    def _put(self, columns: np.ndarray, codes: np.ndarray) -> None:
        for column in columns:
            del self._columns[self._codes[column].tobytes()]
        encodings = self.space.features(codes).astype(np.float64)
        self._episode.replace(columns, encodings, self._values(encodings))
        self._codes[columns] = codes
        self._columns |= {row.tobytes(): int(c) for row, c in zip(codes, columns, strict=True)}

    def _generator(self, done: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % 2**32, done])


def _load(policy: Path | str | None) -> Policy:
    return default_policy() if policy is None else load_policy(policy)


def _fitting(tasks: EarlierTasks, space: Space) -> EarlierTasks:
    if tasks.codes.shape[1] != len(space.names):
        raise InputError("the earlier tasks that the policy carries are of another space; export it again")
    return tasks


def _number_or_none(value: float | None) -> float | None:
    """The value as a float, None for a failed trial."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise InputError(f"the result {value!r} is no number (None or NaN: the trial failed)")
    number = float(value)
    return number if math.isfinite(number) else None
