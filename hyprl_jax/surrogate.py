"""What is believed about the candidates of a task, updated after every trial at the cost of one row.

Two sources are kept side by side, for one episode over N candidates with K known tasks (their surfaces `P
[K, N]` in units of their own range, 0 to 1):

*A Gaussian process* with prior mean `m = sum_k w_k P_k` (`hyprl_jax.knowledge` weighs the known tasks) and
covariance `s sum_k w_k (P_k - m)(P_k - m)' + u (m - c)(m - c)' + e k(x, x')`: how the known tasks vary
together, a factor on what they have in common (without it, a task on which the usually good configurations
are bad is never understood), plus a stationary kernel over encodings. Its posterior over the finite candidate
set is updated incrementally (one row of the pivoted Cholesky factor a trial; Rasmussen and Williams 2006,
A.4), so that a step costs O(T N) and nothing is ever factorised again. The objective of the task being played
comes in raw units `y = (z - b) / a`; because the update is linear, the projections of `y`, of the constant
and of the prior mean are kept apart and the scale `a` and shift `b` are estimated anew after each trial: `b`
in closed form, `a` over a grid, both under priors from the known tasks' ranges. How far the task lies from
what was known is integrated out too, which makes a Student-t process of it: deviations grow with surprise and
shrink without.

*Retrieval*: known tasks weighted by how well they rank the tested pairs (in the spirit of two-stage transfer
surrogates, Wistuba, Schilling and Schmidt-Thieme 2016), the weighted mean surface, and the improvement
expected if the task were one of them, `sum_k w_k max(P_k(x) - max_tested P_k, 0)`. It needs no scale at all.

All functions are for a single episode; the caller vmaps. `Knowledge` and the surfaces are arguments, not
state.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.config import SurrogateConfig
from hyprl_jax.knowledge import Knowledge

CANDIDATE_FEATURES = (
    "log_acquisition", "log_acquisition_relative", "log_expected_improvement", "log_gain_gentle",
    "log_gain_sharp", "posterior_gap", "posterior_deviation", "standardised_gap", "retrieved_gap_gentle",
    "retrieved_gap_sharp", "prior_mean", "prior_deviation", "explored",
)  # fmt: skip
"""Features of one candidate, in the order of the last axis of `features`."""

_SMALL = 1e-5
_SCALES = 15  # grid points for the scale of the objective
_PRIOR_PAIRS = 10.0  # pairs on which all known tasks are taken to agree beforehand


class SurrogateState(NamedTuple):
    """The belief after some trials of at most T."""

    rows: jax.Array
    """`[T, N]` float32 rows of the Cholesky factor."""
    variance: jax.Array
    """`[N]` float32 posterior variance."""
    projections: jax.Array
    """`[3, N]` float32 posterior projections of the objective, of the constant 1 and of the prior mean."""
    moments: jax.Array
    """`[3, 3]` float32 inner products of the whitened objective, constant and prior mean."""
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
    tasks, candidates = known.surfaces.shape
    variance = config.learned_variance * known.deviation**2 + config.encoding_variance
    variance = variance + config.mean_variance * known.contrast**2
    return SurrogateState(
        rows=jnp.zeros((trials, candidates), jnp.float32),
        variance=variance,
        projections=jnp.zeros((3, candidates), jnp.float32),
        moments=jnp.zeros((3, 3), jnp.float32),
        objectives=jnp.zeros(trials, jnp.float32),
        actions=jnp.zeros(trials, jnp.int32),
        discordant=jnp.zeros(tasks, jnp.float32),
        reached=jnp.zeros(tasks, jnp.float32),
        incumbent=jnp.float32(-jnp.inf),
        trial=jnp.int32(0),
    )


def covariance_row(known: Knowledge, action: jax.Array, config: SurrogateConfig) -> jax.Array:
    """Prior covariance `[N]` between configuration `action` and all candidates."""
    rough = config.encoding_variance * stationary(known.places[action], known.places)
    if config.prior != "learned":
        return rough
    # In weight space: sum_k w_k (P_k - m)(P_k - m)' = sum_k w_k P_k P_k' - m m', for weights that sum to 1.
    learned = (known.weights * known.surfaces[:, action]) @ known.surfaces - known.mean[action] * known.mean
    opposed = config.mean_variance * known.contrast[action] * known.contrast
    return config.learned_variance * learned + opposed + rough


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
    row = covariance_row(known, action, config)
    deviation = jnp.sqrt(jnp.maximum(state.variance[action], 0.0) + config.noise)
    new_row = (row - state.rows[:, action] @ state.rows) / deviation
    first = jnp.where(state.trial > 0, state.objectives[0], objective)
    relative = objective - _reference(known, first)
    facts = jnp.stack([relative, jnp.float32(1.0), known.mean[action]])
    whitened = (facts - state.projections[:, action]) / deviation

    ours = objective - state.objectives
    theirs = known.surfaces[:, action][:, None] - known.surfaces[:, state.actions]
    disagree = jnp.where(ours * theirs < 0, 1.0, jnp.where((ours == 0) != (theirs == 0), 0.5, 0.0))
    earlier = jnp.arange(state.objectives.shape[0]) < state.trial
    return SurrogateState(
        rows=state.rows.at[state.trial].set(new_row),
        variance=jnp.maximum(state.variance - new_row**2, 0.0),
        projections=state.projections + whitened[:, None] * new_row,
        moments=state.moments + whitened[:, None] * whitened,
        objectives=state.objectives.at[state.trial].set(objective),
        actions=state.actions.at[state.trial].set(action),
        discordant=state.discordant + jnp.sum(jnp.where(earlier, disagree, 0.0), axis=1),
        reached=jnp.maximum(state.reached, known.surfaces[:, action]),
        incumbent=jnp.maximum(state.incumbent, objective),
        trial=state.trial + 1,
    )


def _reference(known: Knowledge, first: jax.Array) -> jax.Array:
    """What objectives are counted from in projections and moments: a typical worst value of the known tasks,
    or the `first` objective if there are none. Squares of objectives far from 0 would cancel in float32."""
    return jnp.where(jnp.any(known.weights > 0), known.weights @ known.lower, first)


def scale(
    known: Knowledge, state: SurrogateState, config: SurrogateConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scale `a` and shift `b` (float32 scalars) that bring raw objectives to units of the task's range, `z =
    a y + b`, and the factor on posterior standard deviations.

    Posterior means under the marginal likelihood of the Gaussian process: with whitened objective u_y,
    constant u_1 and prior mean u_m the log-likelihood is `T log a - |a u_y + b u_1 - u_m|^2 / 2`, and `b ~
    N(-a l, (a s)^2)` integrates out, where l and s are mean and standard deviation of the known tasks' worst
    values; `log a` has a normal prior over a grid, from the known tasks' ranges. With `config.freedom` v
    above 0 the process has a factor of its own on all its covariances, inverse gamma, that integrates out:
    misfit m counts as `(v + T) log(1 + m / v)`, and variances are `(v + m) / (v + T)` times those of the
    Gaussian process (Shah, Wilson and Ghahramani 2014, eq. 6).
    """
    weights = known.weights
    log_scale = -jnp.log(jnp.maximum(known.span, 1e-12))
    centre = weights @ log_scale
    width = jnp.sqrt(weights @ (log_scale - centre) ** 2 + 0.01)
    offsets = jnp.linspace(-2.5, 2.5, _SCALES)
    grid = jnp.exp(centre + width * offsets)
    lower = weights @ known.lower
    # A known range is never narrower than a hundredth of a typical one.
    lower_variance = weights @ (known.lower - lower) ** 2 + (0.01 / jnp.exp(centre)) ** 2 + 1e-12
    precision_before = 1.0 / (grid**2 * lower_variance)
    reference = _reference(known, state.objectives[0])
    guess = -grid * (lower - reference)
    yy, y1, ym, oo, om, mm = (
        state.moments[i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    )
    precision = precision_before + oo
    shift = (precision_before * guess - (grid * y1 - om)) / precision
    misfit = grid**2 * yy + shift**2 * oo + mm + 2.0 * (grid * shift * y1 - grid * ym - shift * om)
    misfit = jnp.maximum(misfit + precision_before * (shift - guess) ** 2, 0.0)
    freedom = jnp.maximum(config.freedom, 1e-6)
    heavy = (freedom + state.trial) * jnp.log1p(misfit / freedom)
    explained = 0.5 * jnp.where(config.freedom > 0, heavy, misfit)
    evidence = state.trial * jnp.log(grid) - explained - 0.5 * jnp.log(precision / precision_before)
    posterior = jax.nn.softmax(evidence - 0.5 * offsets**2)
    factor = posterior @ grid
    inflation = jnp.sqrt((freedom + posterior @ misfit) / (freedom + state.trial))
    inflation = jnp.where(config.freedom > 0, inflation, 1.0)
    return factor, posterior @ shift - factor * reference, inflation


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
    units = (*cold_scale(state), jnp.float32(1.0))
    if config.prior != "constant":  # with no task to learn from, any prior is a cold start
        informed, learned = jnp.any(known.weights > 0), scale(known, state, config)
        units = jax.tree.map(lambda warm, cold: jnp.where(informed, warm, cold), learned, units)
    factor, shift, inflation = units
    objective, one, mean = state.projections
    # The projections are of objectives counted from a reference, and so is the incumbent.
    reference = _reference(known, state.objectives[0])
    moved = shift + factor * reference
    posterior = known.mean - mean + factor * objective + moved * one
    deviation = inflation * jnp.sqrt(jnp.maximum(state.variance, 1e-8))
    begun = state.trial > 0
    first = jnp.max(jnp.where(legal, known.mean, -jnp.inf), initial=0.0)
    above = jnp.where(begun, state.incumbent - reference, 0.0)
    incumbent = jnp.where(begun, factor * above + moved, first)
    improvement = expected_improvement(posterior, deviation, incumbent)
    sharpness = jnp.stack([jnp.asarray(config.sharpness_low), jnp.asarray(config.sharpness_high)])
    weights = retrieval_weights(known, state, sharpness)
    gains = expected_gains(known, state, weights)
    return Belief(
        mean=posterior,
        deviation=deviation,
        incumbent=incumbent,
        expected_improvement=improvement,
        gains=gains,
        retrieved=weights @ known.surfaces,
        reached=weights @ state.reached,
        concentration=jnp.sum(weights**2, axis=1),
        scale=jnp.stack([factor, shift]),
    )


def expected_gains(known: Knowledge, state: SurrogateState, weights: jax.Array) -> jax.Array:
    """`[S, N]`: `sum_k weights_k max(P_k(x) - reached_k, 0)` for `weights [S, K]`.

    A loop over known tasks, because on CPU it runs in cache: an order of magnitude faster than a product with
    the `[K, N]` matrix of every episode.
    """

    def add(task: jax.Array, total: jax.Array) -> jax.Array:
        ahead = jnp.maximum(known.surfaces[task] - state.reached[task], 0.0)
        return total + weights[:, task][:, None] * ahead

    empty = jnp.zeros((weights.shape[0], known.surfaces.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, known.surfaces.shape[0], add, empty)


def retrieval_weights(known: Knowledge, state: SurrogateState, sharpness: jax.Array) -> jax.Array:
    """`[S, K]` prior weights times the exponential of minus `sharpness [S]` times the share of tested pairs
    that a known task ranks otherwise, normalised; 0 for tasks that may not be used (all 0 if none may).

    Ten pairs of agreement count beforehand: the order of the first two or three results says little, and
    would otherwise rule out most known tasks."""
    done = state.trial.astype(jnp.float32)
    share = state.discordant / (done * (done - 1.0) / 2.0 + _PRIOR_PAIRS)
    usable = known.weights > 0
    liking = jnp.log(jnp.maximum(known.weights, 1e-12))
    logits = jnp.where(usable, liking - sharpness[:, None] * share, -jnp.inf)
    logits = logits - jnp.max(jnp.where(usable, logits, -1e30), axis=1, keepdims=True)
    weights = jnp.where(usable, jnp.exp(logits), 0.0)
    # The best usable task weighs 1 before normalisation: a smaller sum means that there is none.
    return weights / jnp.maximum(weights.sum(1, keepdims=True), 1.0)


def expected_improvement(mean: jax.Array, deviation: jax.Array, incumbent: jax.Array) -> jax.Array:
    """`E max(z - incumbent, 0)` for `z ~ N(mean, deviation^2)` (Jones, Schonlau and Welch 1998, eq. 15); any
    shape."""
    ratio = (mean - incumbent) / deviation
    density = jnp.exp(-0.5 * ratio**2) * 0.3989422804014327
    return deviation * (ratio * jax.scipy.special.ndtr(ratio) + density)


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
