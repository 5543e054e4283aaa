"""What is believed about the candidates when no other task in their space is known: a cold start.

G Gaussian processes that differ in the lengthscales of their features (`runtime.lengthscales`) are updated
side by side and averaged with weights proportional to their marginal likelihood of the history (Rasmussen and
Williams 2006, eq. 2.30): importance sampling over lengthscales instead of an optimiser in the loop, and a way
to find out which hyperparameters matter. A part A of the variance of process g (`SurrogateConfig.additive`, 0
unless it is asked for) may be additive, since the main effect of a feature is learned from few results,
however many features there are (Duvenaud, Nickisch and Rasmussen 2011, "Additive Gaussian processes"): with
the product kernel RQ_g of `surrogate.stationary`,

    k_g(x, x') = (1 - A) RQ_g(x, x') + A sum_f w_gf sum_j l_gfj cos(omega_j (x_f - x'_f)).

The kernel of each feature is a sum over its spectrum (Rasmussen and Williams 2006, section 4.2.1) at the
frequencies omega_j = pi / 4, pi / 2, pi and 2 pi, with l_gfj proportional to (1 + (L_gf omega_j)^2)^-1.5 and
summing to 1 over j. L_gf is the lengthscale of one feature, without the square root of the number of features
that `fitting.numbers_of` puts in, times the factor of process and feature. The w_gf are random shares of the
features in which the candidates differ, summing to 1 (A is 0 where they differ in none). So the prior
variance is 1, times `encoding_variance`. Cosines and sines are computed once an episode, at the first
frequency: cos(a - b) = cos a cos b + sin a sin b, and cos 2a = 2 cos^2 a - 1 leads from each frequency to the
next, which is twice as high. All processes share the cosines.

The scale of each process is integrated out, which makes it a Student-t process (Shah, Wilson and Ghahramani
2014, eqs. 4 and 6). Improvement is counted from the best mean of a tested configuration, since the best
result of a noisy objective is luck in part. Results are seen on a logarithmic scale between the best and the
median of the history, so that the differences among good ones count and bad ones, however bad, do not:

    z = -log((best - y) / (best - median) + 0.3), standardised and divided by 4,

which brings it to about the units of a task's range that all features are counted in.

The scale changes with every result. So the factor of the covariance and its inverse are kept (both grow by a
row a trial), and the processes are conditioned on the newest `z` each time; nothing is factorised again.
Before the first result the most central candidate is the best guess.

All functions are for a single episode; they answer in the types of `hyprl_jax.surrogate`. What retrieval
stands for there is here what the most probable process and the most hopeful one say.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.config import SurrogateConfig
from hyprl_jax.knowledge import Knowledge
from hyprl_jax.runtime.lengthscales import FREQUENCIES, PROCESSES, factors, importances
from hyprl_jax.surrogate import Belief, expected_improvement, stationary

_OFFSET = 0.3
_UNIT = 0.25  # of a task's range for a standard deviation of results
_FREEDOM = 4.0  # degrees of freedom of the Student-t processes
_FLAT = 1e-12  # ranges below it are no ranges
_CENTRAL = 0.4  # improvement expected of the most central candidate before the first trial


class ColdState(NamedTuple):
    """The processes after some trials of at most T."""

    spectrum: jax.Array
    """`[G, J F]` float32 share of each cosine in the prior covariance (first all features at the first
    frequency); what is left to 1 is the share of the product kernel."""
    waves: jax.Array
    """`[2, F, N]` float32 cosine and sine of the features of all candidates at the first frequency."""
    rows: jax.Array
    """`[G, T, N]` float32 rows of the Cholesky factor of each process."""
    inverse: jax.Array
    """`[G, T, T]` float32 inverse of the factor over the tested configurations."""
    log_determinant: jax.Array
    """`[G]` float32 logarithm of the factor's determinant."""
    variance: jax.Array
    """`[G, N]` float32 posterior variance."""
    objectives: jax.Array
    """`[T]` float32 raw objectives in the order of the trials."""
    actions: jax.Array
    """`[T]` int32 configurations in the order of the trials."""
    incumbent: jax.Array
    """float32 best raw objective, minus infinity before the first trial."""
    trial: jax.Array
    """int32 trials done."""


def start(known: Knowledge, trials: int, config: SurrogateConfig) -> ColdState:
    """The processes before the first of at most `trials` trials."""
    candidates = known.encodings.shape[0]
    angles = FREQUENCIES[0] * known.encodings.T
    return ColdState(
        spectrum=config.additive * spectrum(known.encodings, config.lengthscale),
        waves=jnp.stack([jnp.cos(angles), jnp.sin(angles)]),
        rows=jnp.zeros((PROCESSES, trials, candidates), jnp.float32),
        inverse=jnp.zeros((PROCESSES, trials, trials), jnp.float32),
        log_determinant=jnp.zeros(PROCESSES, jnp.float32),
        variance=jnp.full((PROCESSES, candidates), config.encoding_variance, jnp.float32),
        objectives=jnp.zeros(trials, jnp.float32),
        actions=jnp.zeros(trials, jnp.int32),
        incumbent=jnp.float32(-jnp.inf),
        trial=jnp.int32(0),
    )


def spectrum(encodings: jax.Array, lengthscale: jax.Array | float) -> jax.Array:
    """`ColdState.spectrum` before it is multiplied with the share that is additive, for candidates with
    `encodings [N, F]` and a `lengthscale`, or `[F]` of them, that holds the square root of the number of
    features that differ.

    Padded candidates have encodings of 0 alone and do not make a feature differ: where several have, they are
    left out. Features that do not differ get no share."""
    features = encodings.shape[1]
    nothing = ~jnp.any(encodings != 0, axis=1)
    used = ~(nothing & (nothing.sum() > 1))[:, None]
    most = jnp.max(jnp.where(used, encodings, -jnp.inf), axis=0, initial=-jnp.inf)
    differ = most > jnp.min(jnp.where(used, encodings, jnp.inf), axis=0, initial=jnp.inf)
    own = jnp.asarray(lengthscale, jnp.float32) / jnp.sqrt(jnp.maximum(differ.sum(), 1).astype(jnp.float32))
    lengths = own * jnp.asarray(factors(features), jnp.float32)
    falling = 1.0 + (lengths[:, None] * jnp.asarray(FREQUENCIES, jnp.float32)[:, None]) ** 2
    density = 1.0 / (falling * jnp.sqrt(falling))
    density = density / density.sum(1, keepdims=True)
    drawn = jnp.where(differ, jnp.asarray(importances(features), jnp.float32), 0.0)
    shares = drawn / jnp.maximum(drawn.sum(1, keepdims=True), 1e-12)
    return (density * shares[:, None]).reshape(PROCESSES, -1)


def cosines(waves: jax.Array, action: jax.Array) -> jax.Array:
    """`[J F, N]` cosines of the gaps between all candidates and candidate `action`, from `ColdState.waves`,
    in the order of `ColdState.spectrum`."""
    found = [jnp.sum(waves * waves[:, :, action][:, :, None], axis=0)]
    for _ in FREQUENCIES[1:]:
        found.append(2.0 * found[-1] ** 2 - 1.0)
    return jnp.concatenate(found)


def update(
    known: Knowledge, state: ColdState, action: jax.Array, objective: jax.Array, config: SurrogateConfig
) -> ColdState:
    """The processes after testing `action` (int32 scalar) with the raw result `objective` (float32
    scalar)."""
    inverse_factors = jnp.asarray(1.0 / factors(known.encodings.shape[1]), jnp.float32)

    additive = state.spectrum @ cosines(state.waves, action)
    rest = 1.0 - state.spectrum.sum(1)

    def one(
        scales: jax.Array, added: jax.Array, part: jax.Array, rows: jax.Array, inverse: jax.Array,
        variance: jax.Array,
    ) -> tuple[jax.Array, ...]:  # fmt: skip
        places = known.places * scales
        row = config.encoding_variance * (part * stationary(places[action], places) + added)
        past = rows[:, action]
        deviation = jnp.sqrt(jnp.maximum(variance[action], 0.0) + config.noise)
        new_row = (row - past @ rows) / deviation
        new_inverse = (jnp.zeros_like(past).at[state.trial].set(1.0) - past @ inverse) / deviation
        return (
            rows.at[state.trial].set(new_row),
            inverse.at[state.trial].set(new_inverse),
            jnp.log(deviation),
            jnp.maximum(variance - new_row**2, 0.0),
        )

    rows, inverse, grown, variance = jax.vmap(one)(
        inverse_factors, additive, rest, state.rows, state.inverse, state.variance
    )
    return ColdState(
        spectrum=state.spectrum,
        waves=state.waves,
        rows=rows,
        inverse=inverse,
        log_determinant=state.log_determinant + grown,
        variance=variance,
        objectives=state.objectives.at[state.trial].set(objective),
        actions=state.actions.at[state.trial].set(action),
        incumbent=jnp.maximum(state.incumbent, objective),
        trial=state.trial + 1,
    )


def believe(known: Knowledge, state: ColdState, legal: jax.Array, config: SurrogateConfig) -> Belief:
    """The belief about all candidates; `legal [N]` bool are those that may still be tested."""
    del config
    seen = jnp.arange(state.objectives.shape[0]) < state.trial
    begun = state.trial > 0
    targets, factor, shift = standings(state.objectives, seen)
    white = state.inverse @ targets
    misfit = jnp.sum(white**2, axis=1)
    done = state.trial.astype(jnp.float32)
    evidence = -0.5 * (_FREEDOM + done) * jnp.log1p(misfit / _FREEDOM) - state.log_determinant
    weights = jax.nn.softmax(evidence)
    means = jnp.einsum("gt,gtn->gn", white, state.rows)
    variances = jnp.maximum(state.variance, 1e-8) * ((_FREEDOM + misfit) / (_FREEDOM + done))[:, None]
    mean = weights @ means
    variance = jnp.maximum(weights @ (variances + means**2) - mean**2, 1e-8)
    reached = jnp.max(jnp.where(seen, means[:, state.actions], -jnp.inf), axis=1, initial=-1e6)
    reached = jnp.where(begun, reached, 0.0)
    each = expected_improvement(means, jnp.sqrt(variances), reached[:, None])
    incumbent = weights @ reached
    likeliest = jnp.argmax(weights)
    improvement = jnp.where(begun, weights @ each, centrality(known.encodings, legal))
    return Belief(
        mean=_UNIT * mean,
        deviation=_UNIT * jnp.sqrt(variance),
        incumbent=_UNIT * incumbent,
        expected_improvement=_UNIT * improvement,
        gains=_UNIT * jnp.stack([each[likeliest], each.max(0)]),
        retrieved=_UNIT * jnp.stack([means[likeliest], means.max(0)]),
        reached=_UNIT * jnp.stack([incumbent, incumbent]),
        concentration=jnp.stack([jnp.sum(weights**2), jnp.max(weights)]),
        scale=_UNIT * jnp.stack([factor, shift]),
    )


def standings(objectives: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Targets `[T]` (0 where not `seen [T]` bool) of raw objectives `[T]`, and the scale `a`, `b` of the
    linear `a y + b` that standardises them with the worst brought up to as far below the median as twice the
    best is above."""
    count = jnp.maximum(seen.sum(), 1)
    best = jnp.max(jnp.where(seen, objectives, -jnp.inf), initial=-1e30)
    worst = jnp.min(jnp.where(seen, objectives, jnp.inf), initial=1e30)
    ranked = jnp.sort(jnp.where(seen, objectives, jnp.inf))
    median = 0.5 * (ranked[(count - 1) // 2] + ranked[count // 2])
    span = jnp.where(best - median > _FLAT, best - median, best - worst)
    span = jnp.where(span > _FLAT, span, 1.0)
    below = jnp.where(seen, (best - objectives) / span, 0.0)
    targets, _, _ = _standardised(-jnp.log(below + _OFFSET), seen, count)
    # Counted from the best: squares of objectives far from 0 would cancel.
    _, middle, width = _standardised(jnp.maximum(-below, -3.0), seen, count)
    factor = 1.0 / (width * span)
    return targets, factor, -middle / width - factor * best


def _standardised(
    values: jax.Array, seen: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    mean = jnp.sum(jnp.where(seen, values, 0.0)) / count
    centred = jnp.where(seen, values - mean, 0.0)
    variance = jnp.sum(centred**2) / count
    width = jnp.sqrt(jnp.where(variance > 1e-10, variance, 1.0))
    return centred / width, mean, width


def centrality(encodings: jax.Array, legal: jax.Array) -> jax.Array:
    """`[N]` largest for the legal candidate nearest to the mean of all legal ones."""
    centre = jnp.sum(jnp.where(legal[:, None], encodings, 0.0), axis=0) / jnp.maximum(legal.sum(), 1)
    return _CENTRAL * jnp.exp(-jnp.sum((encodings - centre) ** 2, axis=1))
