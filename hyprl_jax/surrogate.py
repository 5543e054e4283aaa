"""What is believed about the candidates of a task, updated after every trial at the cost of one row.

Three sources are kept side by side, for one episode over N candidates with K known tasks (their surfaces `P
[K, N]` in units of their own range, 0 to 1):

*A Gaussian process* (`hyprl_jax.process`) with prior mean `m = sum_k w_k P_k` (`hyprl_jax.knowledge` weighs
the known tasks) and covariance `s sum_k w_k (P_k - m)(P_k - m)' + u (m - c)(m - c)' + e k(x, x')`: how the
known tasks vary together, a factor on what they have in common (without it, a task on which the usually good
configurations are bad is never understood), plus a stationary kernel over encodings. How far the task lies
from what was known is integrated out, which makes a Student-t process of it: deviations grow with surprise
and shrink without.

*Retrieval*: known tasks weighted by how well they rank the tested pairs (in the spirit of two-stage transfer
surrogates, Wistuba, Schilling and Schmidt-Thieme 2016), the weighted mean surface, and the improvement
expected if the task were one of them, `sum_k w_k max(P_k(x) - max_tested P_k, 0)`. It needs no scale at all.

*A guard against negative transfer* (`SurrogateConfig.guard`): a second process that knows no other task, with
a constant mean and the covariance `g k(x, x')`. Both are averaged by their evidence, the second one counting
for a half at most, so that it is heard where the task is unlike the known ones; the task may then lie far
from them too, and retrieval fades as the retrieved tasks rank the tested pairs no better than by chance.

Where the known surfaces are read without their noise (`hyprl_jax.fitting.foretells_better`), the process
reads them without half of it and retrieval without all of it.

All functions are for a single episode; the caller vmaps. `Knowledge` and the surfaces are arguments, not
state.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import process
from hyprl_jax.config import SurrogateConfig
from hyprl_jax.knowledge import Knowledge
from hyprl_jax.process import Process
from hyprl_jax.runtime.guard import CHANCE, MOST, TRUSTED
from hyprl_jax.runtime.improvement import REACH, TAIL
from hyprl_jax.runtime.likeness import MIDDLE

CANDIDATE_FEATURES = (
    "log_acquisition", "log_acquisition_relative", "log_expected_improvement", "log_gain_gentle",
    "log_gain_sharp", "posterior_gap", "posterior_deviation", "standardised_gap", "retrieved_gap_gentle",
    "retrieved_gap_sharp", "prior_mean", "prior_deviation", "explored",
)  # fmt: skip
"""Features of one candidate, in the order of the last axis of `features`."""

_SMALL = 1e-5
TASKS_AT_ONCE = 5  # known tasks in a turn of the loop of `expected_gains`
_PRIOR_PAIRS = 10.0  # pairs on which all known tasks are taken to agree beforehand


class SurrogateState(NamedTuple):
    """The belief after some trials of at most T."""

    processes: Process
    """Leaves `[P, ...]`: the process that knows other tasks and, with the guard, the one that knows none."""
    objectives: jax.Array
    """`[T]` float32 raw objectives in the order of the trials."""
    actions: jax.Array
    """`[T]` int32 configurations in the order of the trials."""
    discordant: jax.Array
    """`[K]` float32 tested pairs that the known task ranks the other way (half for a tie on one side)."""
    reached: jax.Array
    """`[K]` float32 best value of the known task among the tested configurations."""
    incumbent: jax.Array
    """float32 best raw objective, minus infinity before the first trial."""
    trial: jax.Array
    """int32 trials done."""


class Belief(NamedTuple):
    """The state read out for all candidates, in units of the task's estimated range."""

    mean: jax.Array
    """`[N]` posterior mean."""
    deviation: jax.Array
    """`[N]` posterior standard deviation."""
    incumbent: jax.Array
    """Scalar: best objective so far (before the first trial: the largest prior mean)."""
    expected_improvement: jax.Array
    """`[N]` under the Gaussian process."""
    gains: jax.Array
    """`[2, N]` improvement under gentle and sharp retrieval."""
    retrieved: jax.Array
    """`[2, N]` mean surface under gentle and sharp retrieval."""
    reached: jax.Array
    """`[2]` value of that mean surface at the best of the tested configurations."""
    concentration: jax.Array
    """`[2]` sum of squared retrieval weights: 1 if one known task takes all."""
    scale: jax.Array
    """Scalars `[2]`: `a` and `b` of `z = a y + b`."""


def start(known: Knowledge, trials: int, config: SurrogateConfig) -> SurrogateState:
    """The belief before the first of at most `trials` trials."""
    tasks = known.surfaces.shape[0]
    variance = config.learned_variance * known.deviation**2 + config.encoding_variance
    variances = [variance + config.mean_variance * known.contrast**2]
    if guarded(config):
        variances.append(jnp.broadcast_to(jnp.asarray(config.guard_variance, jnp.float32), variance.shape))
    return SurrogateState(
        processes=jax.vmap(lambda own: process.begin(own, trials))(jnp.stack(variances)),
        objectives=jnp.zeros(trials, jnp.float32),
        actions=jnp.zeros(trials, jnp.int32),
        discordant=jnp.zeros(tasks, jnp.float32),
        reached=jnp.zeros(tasks, jnp.float32),
        incumbent=jnp.float32(-jnp.inf),
        trial=jnp.int32(0),
    )


def guarded(config: SurrogateConfig) -> bool:
    """Whether there is a second process: only beside one that knows other tasks."""
    return config.guard and config.prior in ("learned", "mean")


def prior_means(known: Knowledge, config: SurrogateConfig) -> jax.Array:
    """`[P, N]` of the processes."""
    means = [known.mean]
    if guarded(config):
        means.append(jnp.full_like(known.mean, MIDDLE))
    return jnp.stack(means)


def covariance_rows(known: Knowledge, action: jax.Array, config: SurrogateConfig) -> jax.Array:
    """Prior covariance `[P, N]` of each process between configuration `action` and all candidates."""
    kernel = stationary(known.places[action], known.places)
    row = config.encoding_variance * kernel
    if config.prior == "learned":
        # Weights sum to 1, so that sum_k w_k (P_k - m)(P_k - m)' = sum_k w_k P_k P_k' - m m'.
        weighted = known.weights * known.surfaces[:, action]
        learned = weighted @ known.surfaces - known.mean[action] * known.mean
        opposed = config.mean_variance * known.contrast[action] * known.contrast
        row = config.learned_variance * learned + opposed + row
    return jnp.stack([row, config.guard_variance * kernel] if guarded(config) else [row])


def stationary(x: jax.Array, others: jax.Array) -> jax.Array:
    """`(1 + d^2 / 4)^-2 [N]`, the rational quadratic kernel with exponent 2 (Rasmussen and Williams 2006, eq.
    4.19) between `x [F]` and `others [N, F]` in units of the lengthscales: as smooth as the usual ones and
    free of transcendental functions."""
    distance = (x @ x) + jnp.sum(others * others, axis=1) - 2.0 * (others @ x)
    return 1.0 / (1.0 + jnp.maximum(distance, 0.0) / 4.0) ** 2


def update(
    known: Knowledge, state: SurrogateState, action: jax.Array, objective: jax.Array, config: SurrogateConfig
) -> SurrogateState:
    """The belief after testing `action` (int32 scalar) with the raw result `objective` (float32 scalar)."""
    rows, means = covariance_rows(known, action, config), prior_means(known, config)[:, action]
    first = jnp.where(state.trial > 0, state.objectives[0], objective)
    relative = jnp.stack([objective - _reference(known, first), jnp.float32(1.0)])

    def condition(one: Process, row: jax.Array, mean: jax.Array) -> Process:
        facts = jnp.append(relative, mean)
        return process.condition(one, row, action, facts, config.noise, state.trial)

    tested = known.examples[:, action]
    ours, theirs = (
        jnp.sign(objective - state.objectives),
        jnp.sign(tested - known.examples[:, state.actions].T),
    )
    disagree = 0.5 * jnp.abs(ours[:, None] - theirs)  # 1 for another order, a half for a tie on one side
    earlier = jnp.arange(state.objectives.shape[0]) < state.trial
    return SurrogateState(
        processes=jax.vmap(condition)(state.processes, rows, means),
        objectives=state.objectives.at[state.trial].set(objective),
        actions=state.actions.at[state.trial].set(action),
        discordant=state.discordant + jnp.sum(jnp.where(earlier[:, None], disagree, 0.0), axis=0),
        reached=jnp.maximum(state.reached, tested),
        incumbent=jnp.maximum(state.incumbent, objective),
        trial=state.trial + 1,
    )


def _reference(known: Knowledge, first: jax.Array) -> jax.Array:
    """What objectives are counted from in projections and moments: a typical worst value of the known tasks,
    or the `first` objective if there are none. Squares of objectives far from 0 would cancel in float32."""
    return jnp.where(jnp.any(known.weights > 0), known.weights @ known.lower, first)


class Readings(NamedTuple):
    """What the processes say; leaves `[P]` or `[P, N]`."""

    weights: jax.Array
    """Summing to 1, in proportion to shares beforehand and evidence, that of the guard at most a half."""
    scale: jax.Array
    """a of `z = a y + b`."""
    shift: jax.Array
    """b for raw objectives."""
    mean: jax.Array
    """`[P, N]`"""
    deviation: jax.Array
    """`[P, N]`"""
    incumbent: jax.Array
    """In units of the task's range; 0 before the first trial."""


def read(known: Knowledge, state: SurrogateState, config: SurrogateConfig) -> Readings:
    """What each process says about all candidates, and how much it counts."""
    informed, guard = jnp.any(known.weights > 0), guarded(config)
    reference = _reference(known, state.objectives[0])
    cold = process.Units(*cold_scale(state), jnp.float32(1.0), jnp.float32(0.0))
    cold = cold._replace(shift=cold.shift + cold.scale * reference)
    where = process.ranges(known)
    above = jnp.where(state.trial > 0, state.incumbent - reference, 0.0)

    def one(own: Process, prior_mean: jax.Array) -> tuple[process.Units, jax.Array, jax.Array, jax.Array]:
        units = cold
        if config.prior != "constant":  # with no task to learn from, any prior is a cold start
            found = process.infer(own, where, reference, state.trial, config.freedom, guard)
            units = jax.tree.map(lambda warm, bare: jnp.where(informed, warm, bare), found, cold)
        objective, constant, projected = own.projections
        mean = prior_mean - projected + units.scale * objective + units.shift * constant
        deviation = units.inflation * jnp.sqrt(jnp.maximum(own.variance, 1e-8))
        return units, mean, deviation, units.scale * above + units.shift

    units, mean, deviation, incumbent = jax.vmap(one)(state.processes, prior_means(known, config))
    weights = jnp.ones(1)
    if guard:
        share = jnp.asarray(config.guard_share)
        likely = jax.nn.softmax(units.evidence + jnp.log(jnp.stack([1.0 - share, share])))
        cold_weight = jnp.where(informed, jnp.minimum(likely[1], MOST), 0.0)
        weights = jnp.stack([1.0 - cold_weight, cold_weight])
    return Readings(weights, units.scale, units.shift - units.scale * reference, mean, deviation, incumbent)


def cold_scale(state: SurrogateState) -> tuple[jax.Array, jax.Array]:
    """`a`, `b` from the history alone: objectives standardised to mean 0 and variance 1 (a single one to
    0)."""
    seen = jnp.arange(state.objectives.shape[0]) < state.trial
    count = jnp.maximum(state.trial, 1)
    mean = jnp.sum(jnp.where(seen, state.objectives, 0.0)) / count
    variance = jnp.sum(jnp.where(seen, (state.objectives - mean) ** 2, 0.0)) / count
    factor = 1.0 / jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    return factor, -mean * factor


def believe(known: Knowledge, state: SurrogateState, legal: jax.Array, config: SurrogateConfig) -> Belief:
    """The belief about all candidates; `legal [N]` bool are those that may still be tested."""
    readings = read(known, state, config)
    begun, weights = state.trial > 0, readings.weights
    first = jnp.max(jnp.where(legal, known.mean, -jnp.inf), initial=0.0)
    incumbents = jnp.where(begun, readings.incumbent, first)
    each = expected_improvement(readings.mean, readings.deviation, incumbents[:, None])
    mean = weights @ readings.mean
    variance = weights @ (readings.deviation**2 + (readings.mean - mean) ** 2)
    sharpness = jnp.stack([jnp.asarray(config.sharpness_low), jnp.asarray(config.sharpness_high)])
    retrieval = retrieval_weights(known, state, sharpness)
    gains = expected_gains(known, state, retrieval)
    if guarded(config):
        misled = retrieval @ discordance(state)
        gains = gains * jnp.clip((CHANCE - misled) / (CHANCE - TRUSTED), 0.0, 1.0)[:, None]
    return Belief(
        mean=mean,
        deviation=jnp.sqrt(variance),
        incumbent=weights @ incumbents,
        expected_improvement=weights @ each,
        gains=gains,
        retrieved=retrieval @ known.examples,
        reached=retrieval @ state.reached,
        concentration=jnp.sum(retrieval**2, axis=1),
        scale=jnp.stack([weights @ readings.scale, weights @ readings.shift]),
    )


def expected_gains(known: Knowledge, state: SurrogateState, weights: jax.Array) -> jax.Array:
    """`[S, N]`: `sum_k weights_k max(P_k(x) - reached_k, 0)` for `weights [S, K]`.

    A loop over known tasks, because on CPU it runs in cache: an order of magnitude faster than a product with
    the `[K, N]` matrix of every episode.
    """

    def add(task: jax.Array, total: jax.Array) -> jax.Array:
        ahead = jnp.maximum(known.examples[task] - state.reached[task], 0.0)
        return total + weights[:, task][:, None] * ahead

    empty = jnp.zeros((weights.shape[0], known.examples.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, known.examples.shape[0], add, empty, unroll=TASKS_AT_ONCE)


def retrieval_weights(known: Knowledge, state: SurrogateState, sharpness: jax.Array) -> jax.Array:
    """`[S, K]` prior weights times the exponential of minus `sharpness [S]` times the share of tested pairs
    that a known task ranks otherwise, normalised; 0 for tasks that may not be used (all 0 if none may).

    Ten pairs of agreement count beforehand: the order of the first two or three results says little, and
    would otherwise rule out most known tasks."""
    share = discordance(state)
    usable = known.weights > 0
    liking = jnp.log(jnp.maximum(known.weights, 1e-12))
    logits = jnp.where(usable, liking - sharpness[:, None] * share, -jnp.inf)
    logits = logits - jnp.max(jnp.where(usable, logits, -1e30), axis=1, keepdims=True)
    weights = jnp.where(usable, jnp.exp(logits), 0.0)
    # The best usable task weighs 1 before normalisation: a smaller sum means that there is none.
    return weights / jnp.maximum(weights.sum(1, keepdims=True), 1.0)


def discordance(state: SurrogateState) -> jax.Array:
    """`[K]` share of tested pairs that each known task ranks otherwise, after ten pairs of agreement."""
    done = state.trial.astype(jnp.float32)
    return state.discordant / (done * (done - 1.0) / 2.0 + _PRIOR_PAIRS)


def expected_improvement(mean: jax.Array, deviation: jax.Array, incumbent: jax.Array) -> jax.Array:
    """`E max(z - incumbent, 0)` for `z ~ N(mean, deviation^2)` (Jones, Schonlau and Welch 1998, eq. 15); any
    shape. See `hyprl_jax.runtime.improvement` for how it is computed."""
    ratio = (mean - incumbent) / deviation
    t = 1.0 / (1.0 + REACH * jnp.abs(ratio))
    tail = jnp.polyval(jnp.asarray(TAIL, jnp.float32), t, unroll=len(TAIL))
    return deviation * (jnp.maximum(ratio, 0.0) + jnp.exp(-0.5 * ratio * ratio) * t * t * tail)


class Acquired(NamedTuple):
    """The acquisition function over all candidates, and what is counted from its best."""

    acquisition: jax.Array
    """`[N]` not negative; 0 where a candidate is not legal."""
    top: jax.Array
    """Scalar: the largest."""
    prior_top: jax.Array
    """Scalar: the largest prior mean of a legal candidate."""


def acquire(known: Knowledge, belief: Belief, legal: jax.Array, config: SurrogateConfig) -> Acquired:
    """The classical acquisition that policies start from: expected improvement under the Gaussian process
    plus `gain_weight` times that under each retrieval; `legal [N]` bool."""
    gains = belief.gains[0] + belief.gains[1]
    values = jnp.where(legal, belief.expected_improvement + config.gain_weight * gains, 0.0)
    prior_top = jnp.max(jnp.where(legal, known.mean, -jnp.inf), initial=0.0)
    return Acquired(values, jnp.maximum(jnp.max(values), 1e-12), prior_top)


def features(known: Knowledge, belief: Belief, view: Acquired, columns: jax.Array) -> jax.Array:
    """`[C, len(CANDIDATE_FEATURES)]` float32 features of the candidates `columns [C]` int32, free of
    dimension and scale, about 0 to 1."""
    total = jnp.log(view.acquisition[columns] + _SMALL)
    improvement = jnp.log(belief.expected_improvement[columns] + _SMALL)
    gains = jnp.log(belief.gains[:, columns] + _SMALL)
    gap = belief.mean[columns] - belief.incumbent
    deviation = belief.deviation[columns]
    retrieved = (belief.retrieved[:, columns] - belief.reached[:, None]) * 2.0
    spread = known.deviation[columns]
    variance = deviation**2
    explored = 1.0 - jnp.sqrt(variance / jnp.maximum(spread**2 + 1e-3, variance))
    parts = [
        total / 5.0 + 1.0,
        jnp.maximum(total - jnp.log(view.top + _SMALL), -8.0) / 2.0,
        improvement / 5.0 + 1.0,
        gains[0] / 5.0 + 1.0,
        gains[1] / 5.0 + 1.0,
        jnp.clip(gap, -2.0, 2.0) * 2.0,
        deviation * 4.0,
        jnp.clip(gap / deviation, -6.0, 6.0) / 2.0,
        retrieved[0],
        retrieved[1],
        jnp.maximum(known.mean[columns] - view.prior_top, -1.0) * 2.0,
        spread * 4.0,
        explored,
    ]
    return jnp.stack(parts, axis=-1)
