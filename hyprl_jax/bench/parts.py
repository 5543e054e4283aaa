"""The parts of a training step, each compiled and measured on its own beside what the machine can do at best.

A part is what `rollout.play` and `learner.update` do, over one block of episodes (as many as a CPU plays side
by side) in the middle of an episode: environment step, surrogate update, surrogate reading (belief,
acquisition function, shortlist and its features), network forward; targets and fit work on a whole batch and
are counted for each of its environment steps. All candidates are offered, as in test-time play (training by
default offers 128 at a time).

Each part is its own program, called from Python: the time of a call that does nothing is taken off. Results
are returned, so that nothing is optimised away, and what a step overwrites it overwrites here. What an
episode does in every trial is repeated within its program, as it is there: environment step and update with
another candidate each time, reading and network with inputs that move a little, so that they are not computed
once and for all. What the parts do not explain of a whole update is the rest: drawing tasks, choosing,
knowing the task before the first trial, records, and the difference between parts apart and fused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import env, explore, fitting, learner, players, rollout, surrogate
from hyprl_jax.bench import ceilings, costs, model
from hyprl_jax.bench.ceilings import Ceilings
from hyprl_jax.bench.problem import Problem
from hyprl_jax.bench.rollouts import Episode, Trial, begin_episode, one_trial
from hyprl_jax.bench.timing import Side, speed
from hyprl_jax.config import TrainConfig
from hyprl_jax.knowledge import Knowledge
from hyprl_jax.learner import LearnerState
from hyprl_jax.networks import FlaxNetwork
from hyprl_jax.rollout import Record

_KNOWN = Knowledge(None, None, None, None, None, None, 0, 0, 0, 0)  # type: ignore[arg-type]
_EPISODE = Episode(0, _KNOWN, 0, 0, 0, 0)  # type: ignore[arg-type]
_REPEATS = 16
_MOVE = 1e-6  # by which inputs of reading and network differ from one time to the next
_LEAST_SHARE = 0.1  # of a call that is the part's own: less cannot be told from the call


class Part(NamedTuple):
    """A part as a pure function `(carried, *given) -> (carried, result)`."""

    function: Callable[..., tuple[Any, Any]]
    carried: Any
    """What a call overwrites and the next one gets."""
    given: tuple
    steps: int
    """Environment steps that a call stands for."""
    repeats: int = 1
    """Calls in the program that is timed."""


class Middle(NamedTuple):
    """A block of B episodes with half of their trials done, and their records once they are over."""

    state: LearnerState
    episode: Episode
    """Leaves `[B, ...]`, but for what the episodes share of their knowledge."""
    action: jax.Array
    """`[B]` int32: what is chosen next."""
    record: Record
    """`[B, T]`"""


def with_all_candidates(problem: Problem) -> Problem:
    """The problem with all configurations offered in training episodes."""
    config = problem.config
    own = dataclasses.replace(config.augment, candidates=0)
    return problem._replace(config=dataclasses.replace(config, augment=own))


def play_to_the_middle(problem: Problem, seed: int = 0) -> Middle:
    """A block of episodes on synthetic tasks, played as in training with the first parameters."""
    config = problem.config
    trials, block = config.env.trials, _block(problem)
    state = jax.jit(partial(learner.init, config=config))(jax.random.key(seed), problem.bank, problem.fold)
    draw = jax.jit(partial(learner.draw_tasks, config=config))
    task_key, play_key = jax.random.split(jax.random.key(seed + 1))
    tasks = jax.tree.map(lambda leaf: leaf[:block], draw(task_key, problem.bank, problem.fold))
    shared = rollout.background(problem.bank, problem.fold)
    act = players.q_player(
        FlaxNetwork(config.network), config.network, state.params, temperature=config.learner.temperature
    )
    luck_of = players.gumbel_noise(config.network, problem.bank.legal.shape[1])
    begin = jax.vmap(lambda task: begin_episode(state.params, shared, task, config), out_axes=_EPISODE)
    go_on = jax.vmap(
        lambda episode, key: one_trial(episode, act, luck_of(key), config),
        in_axes=(_EPISODE, 0),
        out_axes=(_EPISODE, 0),
    )
    episode, step = jax.jit(begin)(tasks), jax.jit(go_on)
    middle, played, incumbents = episode, [], []
    for trial, key in enumerate(jax.random.split(play_key, trials)):
        if trial == trials // 2:
            middle = episode
        episode, result = step(episode, jax.random.split(key, block))
        played.append(result)
        incumbents.append(episode.state.incumbent)
    record = _record(tasks, played, incumbents)
    return Middle(state, middle, record.action[:, trials // 2], record)


def make_parts(problem: Problem, middle: Middle) -> dict[str, Part]:
    """The parts in the order of a training step."""
    config, episode = problem.config, middle.episode
    block, steps = middle.action.shape[0], config.learner.episodes * config.env.trials
    processes = jax.tree.map(jnp.copy, episode.beliefs.processes)
    objective = episode.task.objective[jnp.arange(block), middle.action]
    state, action = episode.state, jnp.copy(middle.action)
    moving = jax.tree.map(jnp.copy, (state.tried, state.incumbent, state.latest, middle.action))
    beliefs = episode.beliefs._replace(processes=None)  # type: ignore[arg-type]
    read = partial(reading, config=config)
    still = jnp.float32(0.0)
    columns, inputs, context, legal = jax.jit(read)(
        still, episode.known, episode.task, episode.state, episode.beliefs, episode.latest
    )[1]
    del columns
    tasks, record = batch_of(middle, config)
    batch = jax.jit(partial(learner.make_batch, config=config))(record, tasks)
    seen = (episode.known, episode.task, episode.state, episode.beliefs, episode.latest)
    told = (episode.known, beliefs, objective)
    judged = (middle.state.params, episode.memory[0], context, inputs, legal)
    return {
        "environment": Part(
            partial(environment_step, config=config),
            moving,
            (state.trial, state.over, episode.task),
            block,
            _REPEATS,
        ),
        "update": Part(partial(update, config=config), (processes, action), told, block, _REPEATS),
        "reading": Part(read, jnp.copy(still), seen, block, _REPEATS),
        "network": Part(partial(network, config=config), jnp.copy(still), judged, block, _REPEATS),
        "targets": Part(partial(targets, config=config), None, (record, tasks), steps),
        "fit": Part(partial(fit, config=config), None, (middle.state, batch, jax.random.key(2)), steps),
    }


def environment_step(
    carried: tuple, trial: jax.Array, over: jax.Array, task: env.Task, config: TrainConfig
) -> tuple[tuple, Any]:
    """What may be chosen, and a step: carries `tried [B, N]`, `incumbent`, `latest` and `action [B]`."""

    def one(carried: tuple, trial: jax.Array, over: jax.Array, task: env.Task) -> tuple[tuple, tuple]:
        tried, incumbent, latest, action = carried
        state = env.EnvState(tried, trial, incumbent, latest, over)
        legal = env.observe(task, state, config.env).legal
        after, result = env.step(task, state, action, config.env)
        moving = (after.tried, after.incumbent, after.latest, _next(action, legal))
        return moving, (legal, after.trial, result)

    return jax.vmap(one)(carried, trial, over, task)


def update(
    carried: tuple, known: Knowledge, others: Any, objective: jax.Array, config: TrainConfig
) -> tuple[tuple, Any]:
    """The belief after a trial: carries its processes and `action [B]`."""

    def one(carried: tuple, known: Knowledge, others: Any, objective: jax.Array) -> tuple[tuple, Any]:
        state, action = others._replace(processes=carried[0]), carried[1]
        after = surrogate.update(known, state, action, objective, config.surrogate)
        rest = after._replace(processes=None)  # type: ignore[arg-type]
        return (after.processes, _next(action, known.mean)), rest

    return jax.vmap(one, in_axes=(0, _KNOWN, 0, 0))(carried, known, others, objective)


def reading(
    carried: jax.Array, known: Knowledge, task: env.Task, state: env.EnvState, beliefs: Any, latest: Any,
    config: TrainConfig,
) -> tuple[jax.Array, Any]:  # fmt: skip
    """What the network sees: columns of the shortlist, their inputs, the context, what is legal. Carries by
    how much the state of the episode has moved."""

    def one(known: Knowledge, task: env.Task, state: env.EnvState, beliefs: Any, latest: Any) -> tuple:
        view = rollout.look(known, task, state, beliefs, latest, config.env, config.surrogate)
        columns = players.shortlist(view, config.network)
        inputs = players.candidate_inputs(view, config.network, columns)
        return columns, inputs, players.read(view, config.network), view.observation.legal[columns]

    state, beliefs, latest = _moved(carried, (state, beliefs, latest))
    found = jax.vmap(one, in_axes=(_KNOWN, 0, 0, 0, 0))(known, task, state, beliefs, latest)
    return carried + _MOVE, found


def network(
    carried: jax.Array, params: Any, memory: Any, context: jax.Array, inputs: Any, legal: jax.Array,
    config: TrainConfig,
) -> tuple[jax.Array, Any]:  # fmt: skip
    """The network's memory after a context, the place of the best of the shortlist, values, preferences.
    Carries by how much its inputs have moved."""
    own = FlaxNetwork(config.network)

    def one(memory: Any, context: jax.Array, inputs: Any, legal: jax.Array) -> tuple:
        memory, hidden = own.advance(params, memory, context)
        place = explore.masked_argmax(own.advantages(params, hidden, inputs), legal)
        return memory, place, own.values(params, hidden, inputs), own.preferences(params, hidden, inputs)

    memory, context, inputs = _moved(carried, (memory, context, inputs))
    return carried + _MOVE, jax.vmap(one)(memory, context, inputs, legal)


def targets(carried: None, record: Record, tasks: env.Task, config: TrainConfig) -> tuple[None, Any]:
    """Targets and advantages of a batch."""
    batch = learner.make_batch(record, tasks, config)
    return carried, (batch.targets, batch.merits)


def fit(
    carried: None, state: LearnerState, batch: learner.Batch, key: jax.Array, config: TrainConfig
) -> tuple[None, Any]:
    """Parameters, state of the optimizer, loss and errors after the passes over a batch."""
    return carried, learner.fit(state, batch, key, config)


def batch_of(middle: Middle, config: TrainConfig) -> tuple[env.Task, Record]:
    """Tasks and records `[E, ...]` of a whole batch: those of the block, repeated."""
    rows = jnp.arange(config.learner.episodes) % middle.action.shape[0]
    return jax.tree.map(lambda leaf: leaf[rows], (middle.episode.task, middle.record))


def measure(problem: Problem, limits: Ceilings, turns: int, seconds: float) -> dict[str, Any]:
    """`{"parts": {name: figures}, "step": {"whole_microseconds", "parts_microseconds", "rest_microseconds"}}`
    of the problem as it is (see `with_all_candidates`); microseconds are per environment step."""
    sizes = model.sizes_of(problem)
    parts = make_parts(problem, play_to_the_middle(problem))
    figures = {
        name: _measure_part(part, model.predict(sizes)[name], limits, turns, seconds)
        for name, part in parts.items()
    }
    explained = sum(each["microseconds_per_step"] for each in figures.values())
    side = whole(problem)
    whole_time = 1e6 / ceilings.best_rate(side, turns, seconds)
    step = {
        "whole_microseconds": whole_time,
        "parts_microseconds": explained,
        "rest_microseconds": whole_time - explained,
        "busy_cores": ceilings.busy_cores(side),
    }
    return {"parts": figures, "step": step}


def whole(problem: Problem) -> Side:
    """Training updates on one device."""
    config = problem.config
    numbers = fitting.numbers_of(problem.bank, config.surrogate)
    update = jax.jit(partial(learner.update, config=config), donate_argnums=0)
    init = jax.jit(partial(learner.init, config=config))
    states = [init(jax.random.key(0), problem.bank, problem.fold)]

    def run() -> None:
        states[0], metrics = update(states[0], problem.bank, problem.fold, numbers=numbers)
        jax.block_until_ready((states[0], metrics))

    return Side(run, config.learner.episodes * config.env.trials)


def _measure_part(
    part: Part, predicted: model.Prediction, limits: Ceilings, turns: int, seconds: float
) -> dict[str, Any]:
    program: Any = jax.jit(part.function, donate_argnums=0).lower(part.carried, *part.given).compile()
    cost = costs.count(part.function, part.carried, *part.given, compiled=program).times(1.0 / part.steps)
    working_set = _working_set(program)
    if part.repeats > 1:
        program = jax.jit(partial(repeated, part.function, part.repeats), donate_argnums=0)
    own, empty, cores = _seconds_of_calls(part, program, turns, seconds)
    step = max(own - empty, _LEAST_SHARE * own) / part.steps / part.repeats
    moved = min(cost.bytes, predicted.bytes)
    return {
        "flops_per_step": cost.flops,
        "transcendentals_per_step": cost.transcendentals,
        "bytes_per_step": moved,
        "xla_bytes_per_step": cost.bytes,
        "model_flops_per_step": predicted.flops,
        "model_bytes_per_step": predicted.bytes,
        "working_set_bytes": working_set,
        "microseconds_per_step": 1e6 * step,
        "microseconds_of_an_empty_call": 1e6 * empty,
        "busy_cores": cores,
        "gflops": cost.flops / step / 1e9,
        "gigabytes_per_second": moved / step / 1e9,
        "of_matmul_ceiling": cost.flops / step / 1e9 / limits.matmul / ceilings.devices_used(cores),
        "of_memory_ceiling": moved / step / 1e9 / limits.bandwidth(working_set),
    }


def _working_set(program: Any) -> int:
    """Bytes that a call works on: arguments, results and what lies in between."""
    memory = program.memory_analysis()
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return int(total - memory.alias_size_in_bytes)


def _seconds_of_calls(part: Part, program: Any, turns: int, seconds: float) -> tuple[float, float, float]:
    """The fastest call of the part, the fastest that takes the same arguments and does nothing, and how many
    cores the part keeps busy."""
    nothing = jax.jit(_do_nothing, donate_argnums=0, keep_unused=True)
    sides = []
    for function in (program, nothing):
        state = [jax.tree.map(jnp.copy, part.carried)]

        def run(function: Any = function, state: list = state) -> None:
            state[0], result = function(state[0], *part.given)
            jax.block_until_ready((state[0], result))

        sides.append(Side(run, 1))
        run()
    pairs = [[1.0 / speed(side, seconds) for side in sides] for _ in range(turns)]
    own, empty = np.min(pairs, axis=0)
    return float(own), float(empty), ceilings.busy_cores(sides[0])


def repeated(function: Callable[..., tuple[Any, Any]], times: int, carried: Any, *given: Any) -> Any:
    """The carried and the result of the last of several calls."""
    shapes = jax.eval_shape(function, carried, *given)[1]
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.fori_loop(0, times, lambda _, latest: function(latest[0], *given), (carried, nothing))


def _next(action: jax.Array, candidates: jax.Array) -> jax.Array:
    """Another of the `candidates [N]`."""
    return (action + 1) % candidates.shape[0]


def _moved(by: jax.Array, tree: Any) -> Any:
    """Floating-point leaves of `tree` with `by` added."""

    def move(leaf: jax.Array) -> jax.Array:
        return leaf + by if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(move, tree)


def _do_nothing(carried: Any, *given: Any) -> tuple[Any, jax.Array]:
    del given
    return carried, jnp.float32(0.0)


def _block(problem: Problem) -> int:
    """Episodes that are played side by side."""
    episodes = problem.config.learner.episodes
    if jax.default_backend() != "cpu":
        return episodes
    return min(rollout.episodes_at_once(problem.bank.legal.shape[1]), episodes)


def _record(tasks: env.Task, played: list[Trial], incumbents: list[jax.Array]) -> Record:
    """The record `[B, T]` of trials `[B]` each."""
    trials: Trial = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *played)
    incumbent = jnp.stack(incumbents, axis=1)
    each_trial = jax.vmap(jax.vmap(env.normalized_regret, in_axes=(None, 0)))
    objective = jnp.take_along_axis(tasks.objective, trials.action, axis=1)
    regret = each_trial(tasks, incumbent)
    return Record(trials.action, objective, trials.reward, trials.over, trials.valid, regret, trials.kept)
