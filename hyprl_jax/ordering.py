"""Learning the order of the candidates by the gradient of the return itself.

Returns of different tasks differ far more than those of the few best candidates of one trial, so a fit of
Q-values that is good on average can still put those few in the wrong order. The plays of one task differ in
nothing but their choices: one is good if the rest of its episode went better than that of the other plays.
The policy that plays is a softmax over the shortlist, and its clipped policy gradient (Schulman et al. 2017,
eq. 7, with the other plays as baseline, in the manner of Kool, van Hoof and Welling 2019) moves the network's
preferences; the size of Q-values stays a matter of regression (Q-learning and policy gradient on one network:
O'Donoghue et al. 2017).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from hyprl_jax import returns

_LEAST = 1e-6


def advantages(
    reward: jax.Array,
    regret: jax.Array,
    over: jax.Array,
    valid: jax.Array,
    plays: int,
    gamma: jax.Array | float,
) -> jax.Array:
    """`[E, T]` by how much the rest of an episode from each choice on went better than that of the other
    plays; 0 where a step did not take place.

    In units of its root mean square over the plays of the task (plus a tenth of that over the batch): each
    task says what is better, and a few with long tails do not drown the others.

    `reward`, `regret` (of the incumbent after the trial), `over` and `valid` `[E, T]` are those of
    `rollout.Record`. Consecutive `plays` episodes are of one task. That a play was already ahead before the
    choice is no merit of the choice: for each trial, what the regret before it explains of the return (by
    least squares over the batch) is taken off.
    """
    chex.assert_rank([reward, regret, over, valid], 2)

    def to_go(rewards: jax.Array, ends: jax.Array, present: jax.Array) -> jax.Array:
        discounts = jnp.where(ends, 0.0, gamma)
        rewards = jnp.where(present, rewards, 0.0)
        return returns.lambda_returns(rewards, discounts, jnp.zeros_like(rewards), 1.0, valid=present)

    after = among_plays(jax.vmap(to_go)(reward, over, valid), plays)
    before = among_plays(jnp.concatenate([jnp.ones_like(regret[:, :1]), regret[:, :-1]], axis=1), plays)
    slope = jnp.sum(after * before, axis=0) / (jnp.sum(before * before, axis=0) + _LEAST)
    merit = jnp.where(valid, after - slope * before, 0.0)
    own = _spread(merit.reshape(-1, plays * merit.shape[1]), valid.reshape(-1, plays * merit.shape[1]))
    unit = own + 0.1 * _spread(merit.reshape(1, -1), valid.reshape(1, -1)) + _LEAST
    return merit / jnp.repeat(unit, plays)[:, None]


def _spread(values: jax.Array, valid: jax.Array) -> jax.Array:
    """`[G]` root mean square of `values [G, M]` where `valid`."""
    return jnp.sqrt(jnp.sum(jnp.where(valid, values**2, 0.0), axis=1) / jnp.maximum(valid.sum(1), 1))


def among_plays(values: jax.Array, plays: int) -> jax.Array:
    """`values [E, T]` less their mean over the plays of each task."""
    grouped = values.reshape(-1, plays, values.shape[1])
    return (grouped - grouped.mean(axis=1, keepdims=True)).reshape(values.shape)


def log_probabilities(preferences: jax.Array, legal: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """`[..., C]` of the softmax policy over a shortlist; very small where a candidate is not legal."""
    return jax.nn.log_softmax(jnp.where(legal, preferences / temperature, -1e9), axis=-1)


def clipped_loss(
    new: jax.Array, old: jax.Array, merit: jax.Array, valid: jax.Array, clip: jax.Array | float
) -> jax.Array:
    """Minus the clipped surrogate objective (Schulman et al. 2017, eq. 7), mean over valid steps: log
    probabilities `new` and `old` of what was chosen, and advantages `merit`, all `[E, T]`."""
    ratio = jnp.exp(new - old)
    bounded = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    gain = jnp.where(valid, jnp.minimum(ratio * merit, bounded * merit), 0.0)
    return -jnp.sum(gain) / jnp.maximum(valid.sum(), 1)
