"""Fitting the surrogate's numbers to the known tasks: by likelihood what can be, by play what must be.

How smooth a surface is in each hyperparameter, how much of a new surface the known ones explain and how
rough the rest is differ from collection to collection, and an acquisition function is only as good as
these guesses. `fit` learns lengthscales, variances and noise by maximum likelihood: of the values that a
known task has at a few configurations, given the other known tasks, its own group left out. The few are
as many as an episode sees and lean to the good ones as an episode does. What decides between exploring
and exploiting is not in a likelihood: `tune` plays the known tasks over a small grid of a factor on the
variance left unexplained and of the trust in retrieval, and keeps the pair with the lowest regret, a mean
over its neighbours in the grid included, because a lowest point beside high ones is luck. Test tasks take
no part in either. `foretells_better` asks whether the known surfaces are better read without their noise.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from hyprl_jax import augment, knowledge, players, rollout
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.knowledge import Numbers
from hyprl_jax.surrogate import stationary

FACTORS = (0.5, 1.5, 5.0)  # on the fitted encoding variance
GAIN_WEIGHTS = (0.2, 0.5, 1.2)
_PLAYS = 4  # of each known task: once as it is, then over halves of its candidates
_STEPS, _BATCH, _RATE = 250, 64, 0.05  # of Adam, with cosine decay
_HISTORY = 24  # configurations whose values are predicted together
_GREED = 6.0  # how strongly a history may lean to good configurations
_FREEDOM = 4.0  # degrees of freedom of the Student-t likelihood
_PULL = 0.02  # of log-lengthscales to their start
_LEAST_NOISE = 1e-5
_SURE = 2.0  # standard errors over known tasks by which smooth surfaces must foretell better


def numbers_of(bank: SurfaceBank, config: SurrogateConfig) -> Numbers:
    """The numbers of the configuration as they are, for each of the L collections of a bank, `[L, ...]`.

    With the prior `cold` lengthscales are times the square root of the number of features in which the
    candidates of a collection differ, as the distance of random points grows."""
    collections, _, features = bank.encodings.shape
    told = {name: getattr(config, name) for name in Numbers._fields[1:]} | {"denoise": 0.0}
    scalars = (jnp.full(collections, number, jnp.float32) for number in told.values())
    lengthscale = jnp.full((collections, features), config.lengthscale, jnp.float32)
    if config.prior == "cold":
        lengthscale = lengthscale * jnp.sqrt(_varying(bank))[:, None]
    return Numbers(lengthscale, *scalars)


def _varying(bank: SurfaceBank) -> jax.Array:
    """Number of features `[L]` float32 in which the candidates of a collection differ (at least 1)."""

    def one(collection: jax.Array) -> jax.Array:
        used = jnp.any(bank.legal & (bank.collection == collection)[:, None], axis=0)[:, None]
        encodings = bank.encodings[collection]
        most = jnp.max(jnp.where(used, encodings, -jnp.inf), axis=0)
        least = jnp.min(jnp.where(used, encodings, jnp.inf), axis=0)
        return jnp.maximum(jnp.sum(most > least), 1).astype(jnp.float32)

    return jax.vmap(one)(jnp.arange(bank.encodings.shape[0]))


def learn(
    bank: SurfaceBank, fold: Fold, env: EnvConfig, config: SurrogateConfig, retrieval: bool = True
) -> Numbers:
    """The numbers `[L, ...]` for the known tasks of a fold, by `fit` and `tune` as the configuration says;
    without `retrieval`, for expected improvement alone (`gain_weight` 0)."""
    numbers = numbers_of(bank, config)
    if config.fit and config.prior == "learned":
        numbers = fit(bank, fold, numbers, config)
    if config.denoise and config.prior in ("learned", "mean"):
        numbers = numbers._replace(denoise=foretells_better(bank, fold, config))
    if config.tune:
        return tune(bank, fold, env, config, numbers, retrieval)
    return numbers if retrieval else numbers._replace(gain_weight=jnp.zeros_like(numbers.gain_weight))


def fit(bank: SurfaceBank, fold: Fold, numbers: Numbers, config: SurrogateConfig) -> Numbers:
    """`numbers [L, ...]` with lengthscales, variances, noise and the likeness that metafeatures tell, of the
    highest likelihood of each collection (those of a collection without known tasks stay)."""
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, _STEPS, 0.05))
    shared = rollout.background(bank, fold)

    def one(collection: jax.Array, begin: Numbers) -> Numbers:
        mine = fold.usable & (bank.collection[fold.known] == collection)
        first = jax.tree.map(jnp.log, begin._replace(denoise=jnp.float32(1.0)))
        described = shared.metafeatures
        apart = jax.vmap(lambda row: knowledge.unlikeness(row, described, shared.ranks, mine))(described)

        def loss(logs: Numbers, key: jax.Array) -> jax.Array:
            numbers = jax.tree.map(jnp.exp, logs)
            each = partial(_surprise, bank, fold, mine, apart, collection, numbers, config)
            pull = jnp.mean((logs.lengthscale - first.lengthscale) ** 2)
            return jax.vmap(each)(jax.random.split(key, _BATCH)).mean() + _PULL * pull

        def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            logs, state = carry
            changes, state = optimizer.update(jax.grad(loss)(logs, key), state, logs)
            return (optax.apply_updates(logs, changes), state), None

        keys = jax.random.split(jax.random.key(0), _STEPS)
        (logs, _), _ = jax.lax.scan(step, (first, optimizer.init(first)), keys)
        found = jax.tree.map(jnp.exp, logs)._replace(gain_weight=begin.gain_weight, denoise=begin.denoise)
        found = found._replace(similarity_floor=jnp.minimum(found.similarity_floor, 1.0))
        sound = mine.any() & jnp.all(jnp.asarray([jnp.isfinite(leaf).all() for leaf in found]))
        return jax.tree.map(lambda new, old: jnp.where(sound, new, old), found, begin)

    return jax.lax.map(lambda pair: one(*pair), (jnp.arange(bank.encodings.shape[0]), numbers))


def _surprise(
    bank: SurfaceBank,
    fold: Fold,
    mine: jax.Array,
    apart: jax.Array,
    collection: jax.Array,
    numbers: Numbers,
    config: SurrogateConfig,
    key: jax.Array,
) -> jax.Array:
    """Negative log-likelihood, a configuration, of a random history of a random known task among `mine [K]`
    given the others; `apart [K, K]` is how unlike known tasks are.

    The scale of a task's own variance is integrated out, which leaves a Student-t likelihood (Shah, Wilson
    and Ghahramani 2014, eq. 6): a few tasks that no prior foresees do not decide for all.
    """
    task_key, greed_key, history_key = jax.random.split(key, 3)
    place = jax.random.categorical(task_key, jnp.where(mine, 0.0, -jnp.inf))
    row = fold.known[place]
    greed = _GREED * jax.random.uniform(greed_key)
    size = min(_HISTORY, bank.legal.shape[1])
    order = greed * bank.unit[row] + jax.random.gumbel(history_key, bank.legal.shape[1:])
    history = jax.lax.top_k(jnp.where(bank.legal[row], order, -jnp.inf), size)[1]
    present = bank.legal[row, history].astype(jnp.float32)

    peers = banks.peers(bank, fold, row, config.leave_out)
    weights = knowledge.task_weights(peers, apart[place], knowledge.with_numbers(config, numbers))
    known = bank.unit[fold.known][:, history]
    mean = weights @ known
    learned = (weights[:, None] * (known - mean)).T @ (known - mean) * jnp.any(peers)
    places = bank.encodings[collection, history] / numbers.lengthscale
    rough = jax.vmap(stationary, in_axes=(0, None))(places, places)
    contrast = knowledge.contrast(mean, peers)
    learned = numbers.learned_variance * learned + config.mean_variance * jnp.outer(contrast, contrast)
    covariance = learned + numbers.encoding_variance * rough
    covariance = covariance * present[:, None] * present + jnp.diag(
        numbers.noise + _LEAST_NOISE + (1.0 - present)
    )
    factor = jnp.linalg.cholesky(covariance)
    off = (bank.unit[row, history] - mean) * present
    white = jax.scipy.linalg.solve_triangular(factor, off, lower=True)
    count = present.sum()
    determinant = jnp.sum(present * jnp.log(jnp.diag(factor)))
    misfit = 0.5 * (_FREEDOM + count) * jnp.log1p(white @ white / _FREEDOM)
    return (determinant + misfit) / jnp.maximum(count, 1.0)


def foretells_better(bank: SurfaceBank, fold: Fold, config: SurrogateConfig) -> jax.Array:
    """`[L]` float32: 1 for each collection where the mean of the other known tasks' smooth surfaces (own
    group left out) foretells a known task better than that of their raw ones, by more than luck; else 0.

    The error of a task is the variance, over its configurations, of its values less that mean."""

    def error(row: jax.Array) -> jax.Array:
        legal, peers = bank.legal[row], banks.peers(bank, fold, row, config.leave_out)

        def of(surfaces: jax.Array) -> jax.Array:
            mean = peers @ surfaces[fold.known] / jnp.maximum(peers.sum(), 1)
            return jnp.var(bank.unit[row] - mean, where=legal)

        return of(bank.smooth) - of(bank.unit)

    differences = jax.vmap(error)(fold.known)

    def one(collection: jax.Array) -> jax.Array:
        mine = fold.usable & (bank.collection[fold.known] == collection)
        count = jnp.maximum(mine.sum(), 2)
        mean = jnp.mean(differences, where=mine)
        spread = jnp.sum(jnp.where(mine, (differences - mean) ** 2, 0.0)) / (count - 1)
        return (mean < -_SURE * jnp.sqrt(spread / count)).astype(jnp.float32)

    return jax.vmap(one)(jnp.arange(bank.encodings.shape[0]))


def tune(
    bank: SurfaceBank,
    fold: Fold,
    env: EnvConfig,
    config: SurrogateConfig,
    numbers: Numbers,
    retrieval: bool = True,
) -> Numbers:
    """`numbers [L, ...]` with the encoding variance times the best of `FACTORS` and the best of
    `GAIN_WEIGHTS` for each collection."""
    weights = GAIN_WEIGHTS if retrieval else (0.0,)
    pairs = jnp.asarray([(factor, weight) for factor in FACTORS for weight in weights], jnp.float32)

    def changed(pair: jax.Array) -> Numbers:
        return numbers._replace(
            encoding_variance=numbers.encoding_variance * pair[0],
            gain_weight=jnp.broadcast_to(pair[1], numbers.gain_weight.shape),
        )

    grids = jax.lax.map(lambda pair: start_regret(bank, fold, env, config, changed(pair)), pairs)
    grids = grids.T.reshape(-1, len(FACTORS), len(weights))
    best = pairs[jax.vmap(lambda grid: jnp.argmin(smoothed(grid)))(grids)]
    return numbers._replace(encoding_variance=numbers.encoding_variance * best[:, 0], gain_weight=best[:, 1])


def smoothed(grid: jax.Array) -> jax.Array:
    """`grid [A, B]`, each value averaged with its neighbours in the four directions at a quarter of its own
    weight."""
    edge = jnp.pad(grid, 1, mode="edge")
    beside = edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]
    return (4.0 * grid + beside) / 8.0


def start_regret(
    bank: SurfaceBank, fold: Fold, env: EnvConfig, config: SurrogateConfig, numbers: Numbers
) -> jax.Array:
    """Normalised regret `[L]`, mean over trials and known tasks of each collection (0 for one without), of
    the acquisition function that policies start from."""
    shared = rollout.background(bank, fold, numbers)
    metafeatures = banks.standardised_metafeatures(bank, fold)
    act = players.score_player(lambda view, key: view.acquired.acquisition)

    def one(row: jax.Array, number: jax.Array) -> jax.Array:
        task = augment.real_task(bank, fold, metafeatures, row, config.leave_out)
        task = augment.numbered_variant(task, number)
        return rollout.play(act, None, shared, task, jax.random.key(0), env, config).regret.mean()

    rows, plays = jnp.repeat(fold.known, _PLAYS), jnp.tile(jnp.arange(_PLAYS), fold.known.shape[0])
    regrets = rollout.over_episodes(one, rows, plays, candidates=bank.legal.shape[1])
    regrets = regrets.reshape(-1, _PLAYS).mean(1)
    collections = jnp.arange(bank.encodings.shape[0])
    member = fold.usable & (bank.collection[fold.known] == collections[:, None])
    return jnp.sum(jnp.where(member, regrets, 0.0), axis=1) / jnp.maximum(member.sum(1), 1)
