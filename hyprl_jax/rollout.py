"""Playing episodes: a scan over trials for one episode, for any player; `vmap` over episodes is the caller's.

A *player* is a pure function `act(memory, view, key) -> (memory, Choice)`: a Q-network, an acquisition
function, a static list. All see the same `View` and go through the same loop, so that policies and baselines
differ in what they choose and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import bank as banks
from hyprl_jax import cold, env, knowledge, surrogate
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.env import Observation, Task

CONTEXT_FEATURES = (
    "share_of_trials", "trials_done", "trials_left", "begun", "latest_improvement", "latest_gap", "surprise",
    "expected_deviation", "concentration_gentle", "concentration_sharp", "top_acquisition", "top_gap",
    "incumbent", "latest_start",
)  # fmt: skip
"""What the context reads before each choice, in the order of `View.context`."""

_MOST, _LEAST = 16, 4  # episodes that are played side by side on a CPU
_CELLS = 48 * 1024  # episodes times candidates whose arrays stay in its caches


class Background(NamedTuple):
    """The known tasks as all episodes of a batch share them."""

    surfaces: jax.Array
    """`[K, N]`"""
    examples: jax.Array
    """`[K, N]` surfaces as retrieval reads them."""
    lower: jax.Array
    """`[K]`"""
    span: jax.Array
    """`[K]`"""
    encodings: jax.Array
    """`[L, N, F]`"""
    metafeatures: jax.Array
    """`[K, M]` standardised."""
    ranks: jax.Array
    """`[K, M]` of the metafeatures, among the known tasks of the same collection."""
    collection: jax.Array
    """`[K]` int32, -1 for padding."""
    numbers: knowledge.Numbers | None
    """Leaves `[L, ...]`: what the surrogate uses for each collection; None for what its configuration
    says."""


class View(NamedTuple):
    """All that a player may use to choose."""

    observation: Observation
    known: knowledge.Knowledge
    state: Any
    """`SurrogateState`, or `ColdState` with the prior `cold`."""
    belief: surrogate.Belief
    acquired: surrogate.Acquired
    context: jax.Array
    """`[G]` float32, see `CONTEXT_FEATURES`."""
    previous: jax.Array
    """`[F + 1]` float32: encoding of the previous configuration and its objective, 0 before the first."""


class Choice(NamedTuple):
    """What a player chose, and what it wants kept about it."""

    action: jax.Array
    """int32 scalar, -1 if nothing is legal."""
    kept: Any
    """A pytree of arrays, or None."""


class Record(NamedTuple):
    """One episode, `[T]` each."""

    action: jax.Array
    objective: jax.Array
    reward: jax.Array
    over: jax.Array
    valid: jax.Array
    regret: jax.Array
    """Normalised regret of the incumbent after the trial (of the last incumbent once the episode is over)."""
    kept: Any


class _Latest(NamedTuple):
    """What the context wants to know about the latest choice; scalars in raw or current units."""

    incumbent_before: jax.Array
    expected: jax.Array
    deviation: jax.Array
    start: jax.Array


class _News(NamedTuple):
    """What there is to tell a player of one trial; scalars."""

    action: jax.Array
    objective: jax.Array
    incumbent: jax.Array
    latest: _Latest


class _Told(NamedTuple):
    """What a player has been told of: of all trials so far, with late results of all but the latest."""

    belief: Any
    objective: jax.Array
    incumbent: jax.Array
    latest: _Latest
    previous: jax.Array


Act = Callable[[Any, View, jax.Array], tuple[Any, Choice]]


def background(bank: SurfaceBank, fold: Fold, numbers: knowledge.Numbers | None = None) -> Background:
    """What is known from the fold's known tasks, with `numbers [L, ...]` of the surrogate (None: as
    configured, and surfaces as they are)."""
    surfaces = examples = bank.unit[fold.known]
    if numbers is not None:
        calm = numbers.denoise[bank.collection[fold.known]] > 0
        examples = jnp.where(calm[:, None], bank.smooth[fold.known], surfaces)
        surfaces = 0.5 * (surfaces + examples)
    span = bank.best - bank.worst
    metafeatures = banks.standardised_metafeatures(bank, fold)[fold.known]
    collection = jnp.where(fold.usable, bank.collection[fold.known], -1)
    return Background(
        surfaces,
        examples,
        bank.worst[fold.known],
        jnp.where(span > 0, span, 1.0)[fold.known],
        bank.encodings,
        metafeatures,
        knowledge.known_ranks(metafeatures, collection),
        collection,
        numbers,
    )


def recall(
    shared: Background, task: Task, beliefs: SurrogateConfig
) -> tuple[knowledge.Knowledge, SurrogateConfig]:
    """What the player of `task` knows, and the surrogate's configuration for the task's collection."""
    # With one collection all stays shared by all episodes instead of being copied for each.
    place = 0 if shared.encodings.shape[0] == 1 else task.collection
    if shared.numbers is not None:
        numbers = jax.tree.map(lambda leaf: leaf[place], shared.numbers)
        beliefs = knowledge.with_numbers(beliefs, numbers)
    encodings = shared.encodings[place]
    unlike = None
    if beliefs.similarity and shared.metafeatures.shape[1]:
        among = shared.collection == task.collection
        unlike = knowledge.unlikeness(task.metafeatures, shared.metafeatures, shared.ranks, among)
    known = knowledge.know(shared.surfaces, encodings, shared.lower, shared.span, task.peers, beliefs, unlike)
    return known._replace(examples=shared.examples), beliefs


def model(beliefs: SurrogateConfig) -> Any:
    """The module that believes: `surrogate`, or `cold` for many processes without a prior."""
    return cold if beliefs.prior == "cold" else surrogate


def over_episodes(play_one: Callable, *given: Any, candidates: int, at_once: int | None = None) -> Any:
    """`play_one` for each of E episodes over so many candidates, whose arguments `given` are stacked along
    leading axes `[E, ...]`.

    On a CPU in equal blocks of at most `at_once` episodes (see `episodes_at_once`), elsewhere all at once.
    Where blocks do not go up evenly the last episode is played again, and that is dropped: a block of another
    size would be compiled apart.
    """
    play_all, episodes = jax.vmap(play_one), jax.tree.leaves(given)[0].shape[0]
    if jax.default_backend() != "cpu" or not episodes:
        return play_all(*given)
    blocks = -(-episodes // (at_once or episodes_at_once(candidates)))
    size = -(-episodes // blocks)
    rows = jnp.minimum(jnp.arange(blocks * size), episodes - 1).reshape(blocks, size)
    if blocks * size > episodes:
        given = jax.tree.map(lambda leaf: leaf[rows], given)
    else:
        given = jax.tree.map(lambda leaf: leaf.reshape(blocks, size, *leaf.shape[1:]), given)
    played = jax.lax.map(lambda block: play_all(*block), given)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:episodes], played)


def episodes_at_once(candidates: int) -> int:
    """Episodes over so many candidates that are played side by side on a CPU."""
    fitting = max(_CELLS // candidates, 1)
    return min(_MOST, max(_LEAST, 1 << (fitting.bit_length() - 1)))


def play(
    act: Act,
    memory: Any,
    shared: Background,
    task: Task,
    key: jax.Array,
    config: EnvConfig,
    beliefs: SurrogateConfig,
    luck_of: Callable[[jax.Array], Any] | None = None,
) -> Record:
    """One episode of `config.trials` steps by the player `act`, whose memory starts as `memory`.

    With `luck_of` the player is given `luck_of(key)` for the key of each trial: random numbers of all trials
    drawn at once cost a fraction of those drawn trial by trial.
    """
    known, beliefs = recall(shared, task, beliefs)
    informed = jnp.any(known.weights > 0)
    zero = jnp.float32(0.0)

    def tell(told: _Told, news: _News) -> _Told:
        belief = model(beliefs).update(known, told.belief, news.action, news.objective, beliefs)
        previous = jnp.concatenate([known.encodings[news.action], news.objective[None]])
        return _Told(belief, news.objective, news.incumbent, news.latest, previous)

    def one(carry: tuple, luck: Any) -> tuple[tuple, Record]:
        memory, state, told, untold = carry
        seen = state._replace(incumbent=told.incumbent, latest=told.objective)
        view = look(known, task, seen, told.belief, told.latest, config, beliefs, told.previous)
        memory, choice = act(memory, view, luck)
        after, result = env.step(task, state, choice.action, config)
        expected = (view.belief.mean[choice.action] - view.belief.scale[1]) / view.belief.scale[0]
        # Where nothing is known of the objective's unit, the first result cannot surprise.
        foreseen = informed | jnp.isfinite(seen.incumbent)
        latest = _Latest(
            state.incumbent,
            jnp.where(foreseen, expected, result.objective),
            view.belief.deviation[choice.action],
            relative(view, choice.action),
        )
        news = _News(choice.action, result.objective, after.incumbent, latest)
        if config.late_results:
            some = state.trial > 0
            told = jax.tree.map(lambda new, old: jnp.where(some, new, old), tell(told, untold), told)
            untold = news
        else:
            told = tell(told, news)
        regret = env.normalized_regret(task, after.incumbent)
        record = Record(
            choice.action, result.objective, result.reward, result.over, result.valid, regret, choice.kept
        )
        return (memory, after, told, untold), record

    state, nothing = env.reset(task), _Latest(zero, zero, zero, zero)
    untold = _News(jnp.int32(0), zero, zero, nothing) if config.late_results else None
    told = _Told(
        model(beliefs).start(known, config.trials, beliefs),
        state.latest,
        state.incumbent,
        nothing,
        _nothing_before(known),
    )
    luck = jax.random.split(key, config.trials)
    if luck_of is not None:
        luck = jax.vmap(luck_of)(luck)
    return jax.lax.scan(one, (memory, state, told, untold), luck)[1]


def _nothing_before(known: knowledge.Knowledge) -> jax.Array:
    """`View.previous` before the first trial."""
    return jnp.zeros(known.encodings.shape[-1] + 1, jnp.float32)


def look(
    known: knowledge.Knowledge,
    task: Task,
    state: env.EnvState,
    belief_state: Any,
    latest: _Latest,
    config: EnvConfig,
    beliefs: SurrogateConfig,
    previous: jax.Array | None = None,
) -> View:
    """The player's view of the current state, with `View.previous` (left out: as before the first trial)."""
    observation = env.observe(task, state, config)
    legal = observation.legal
    belief = model(beliefs).believe(known, belief_state, legal, beliefs)
    acquired = surrogate.acquire(known, belief, legal, beliefs)
    context = _context(observation, belief, latest, jnp.log(acquired.top + 1e-5), config)
    before = _nothing_before(known) if previous is None else previous
    return View(observation, known, belief_state, belief, acquired, context, before)


def relative(view: View, columns: jax.Array) -> jax.Array:
    """Log-acquisition of candidates `columns` (int32, any shape), relative to the best legal one: 0 for that
    one, at least log(0.001). The floor is relative, because late in an episode all improvements are small and
    their order still matters."""
    share = view.acquired.acquisition[columns] / view.acquired.top
    return jnp.minimum(jnp.log((share + 1e-3) / 1.001), 0.0)


def _context(
    observation: Observation, belief: surrogate.Belief, latest: _Latest, top: jax.Array, config: EnvConfig
) -> jax.Array:
    factor = belief.scale[0]
    trial = observation.trial.astype(jnp.float32)
    # Of the results that were told: with late results the first trial is over before there is any.
    begun = jnp.isfinite(observation.incumbent)
    incumbent = jnp.where(begun, observation.incumbent, 0.0)
    again = begun & jnp.isfinite(latest.incumbent_before)
    improvement = jnp.where(again, factor * (incumbent - latest.incumbent_before), 0.0)
    top_gap = jnp.max(jnp.where(observation.legal, belief.mean, -jnp.inf), initial=-10.0) - belief.incumbent
    columns = [
        trial / config.trials,
        jnp.log1p(trial) / 4.0,
        jnp.log1p(jnp.maximum(config.trials - trial, 0.0)) / 4.0,
        begun,
        jnp.where(begun, jnp.clip(improvement, 0.0, 1.0) * 4.0, 0.0),
        jnp.where(begun, jnp.clip(factor * (observation.latest - incumbent), -2.0, 0.0), 0.0),
        jnp.where(begun, jnp.clip(factor * (observation.latest - latest.expected), -1.0, 1.0) * 2.0, 0.0),
        latest.deviation * 4.0,
        belief.concentration[0],
        belief.concentration[1],
        top / 5.0 + 1.0,
        jnp.clip(top_gap, -1.0, 1.0) * 4.0,
        jnp.clip(belief.incumbent, -2.0, 2.0),
        latest.start / 4.0,
    ]
    return jnp.stack([jnp.asarray(column, jnp.float32) for column in columns])
