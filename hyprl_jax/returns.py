"""Targets for Q-learning, as maths on a single episode: ranks asserted first, batching by the caller's
`vmap`.

Index conventions of one episode of T steps: `rewards[t]` is what action `a_t` in state `s_t` brought,
`discounts[t]` is the discount of what follows (0 where the step terminated the episode), and
`bootstrap_values[t]` is the value `v(s_{t+1})` of the state that the step led to. With `v = max_a Q` the
lambda-return below is Peng's Q(lambda) (Peng and Williams 1996), the target of PQN (Gallici et al. 2024);
with the `greedy` mask it is Watkins's.

Episodes of different lengths share one T: `valid [T]` marks the steps that were played, a prefix. A step that
is not valid gets the return 0 and is never looked at by the steps before it; where the last valid step did
not terminate, it bootstraps. A bootstrap value is never read where its discount is 0, so it may be infinite
or NaN there (the maximum over no legal action). Everything is computed and returned in float32.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from hyprl_jax.explore import masked_argmax

__all__ = ["double_q_values", "lambda_returns", "masked_max", "n_step_returns"]


def lambda_returns(
    rewards: chex.Array,
    discounts: chex.Array,
    bootstrap_values: chex.Array,
    lambda_: chex.Numeric,
    *,
    valid: chex.Array | None = None,
    greedy: chex.Array | None = None,
) -> jax.Array:
    """Lambda-returns `[T]`: `G_t = r_t + d_t ((1 - lambda) v(s_{t+1}) + lambda G_{t+1})`.

    Sutton and Barto (2018), section 12.2. The last step has no successor in the sequence and bootstraps with
    `v(s_{t+1})` alone. `lambda_` (scalar, may be traced) at 0 is the one-step target and at 1 the Monte-Carlo
    return.

    Args:
      rewards: `[T]` float.
      discounts: `[T]` float, 0 where the episode terminated.
      bootstrap_values: `[T]` float, `v(s_{t+1})`.
      lambda_: scalar in [0, 1].
      valid: `[T]` bool, the played steps (a prefix); all of them if left out.
      greedy: `[T]` bool, whether `a_t` was the greedy action. If given, the return of a step looks no further
        than the next action that was not greedy (Watkins's Q(lambda)); if left out, it looks through
        (Peng's).
    """
    rewards, discounts, values, follows = _prepare(rewards, discounts, bootstrap_values, valid)
    chex.assert_rank(lambda_, 0)
    if greedy is not None:
        chex.assert_rank(greedy, 1)
        chex.assert_equal_shape([rewards, greedy])
        follows = follows & _next(greedy)
    mixing = jnp.where(follows, jnp.asarray(lambda_, jnp.float32), 0.0)

    def step(after: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        reward, discount, value, mix = inputs
        result = reward + discount * ((1.0 - mix) * value + mix * after)
        return result, result

    start = jnp.zeros((), jnp.float32)
    _, returns = jax.lax.scan(step, start, (rewards, discounts, values, mixing), reverse=True)
    return returns


def n_step_returns(
    rewards: chex.Array,
    discounts: chex.Array,
    bootstrap_values: chex.Array,
    n: int | jax.Array,
    *,
    valid: chex.Array | None = None,
) -> jax.Array:
    """n-step returns `[T]`: `G_t = r_t + d_t r_{t+1} + ... + d_t ... d_{t+n-1} v(s_{t+n})`.

    Sutton and Barto (2018), section 7.1. Steps closer than n to the end of the episode bootstrap from its
    last state. For n-step double Q-learning `bootstrap_values` are `double_q_values` of the successor states.
    `n >= 1` may be traced.

    Args:
      rewards: `[T]` float.
      discounts: `[T]` float, 0 where the episode terminated.
      bootstrap_values: `[T]` float, `v(s_{t+1})`.
      n: number of rewards before the bootstrap.
      valid: `[T]` bool, the played steps (a prefix); all of them if left out.
    """
    if isinstance(n, int) and n < 1:
        raise ValueError(f"n_step_returns needs n >= 1, got {n}")
    rewards, discounts, values, follows = _prepare(rewards, discounts, bootstrap_values, valid)
    chex.assert_rank(n, 0)

    def lengthen(_: jax.Array, after: jax.Array) -> jax.Array:
        return rewards + discounts * jnp.where(follows, _next(after), values)

    return jax.lax.fori_loop(1, n, lengthen, rewards + discounts * values)


def masked_max(q: chex.Array, legal: chex.Array) -> jax.Array:
    """The largest of the legal `q [N]`, scalar float32; 0 where nothing is, as nothing can be gained."""
    chex.assert_rank([q, legal], 1)
    chex.assert_equal_shape([q, legal])
    best = jnp.max(jnp.asarray(q, jnp.float32), where=legal, initial=-jnp.inf)
    return jnp.where(jnp.any(legal), best, 0.0)


def double_q_values(q_select: chex.Array, q_evaluate: chex.Array, legal: chex.Array) -> jax.Array:
    """Value of one state by double Q-learning, scalar float32: one network chooses, the other judges.

    `q_evaluate[argmax_{legal a} q_select[a]]` (van Hasselt, Guez and Silver 2016), ties to the first index; 0
    where nothing is legal. `q_select [N]`, `q_evaluate [N]` float, `legal [N]` bool.
    """
    chex.assert_rank([q_select, q_evaluate, legal], 1)
    chex.assert_equal_shape([q_select, q_evaluate, legal])
    chosen = masked_argmax(q_select, legal)
    return jnp.where(chosen >= 0, jnp.asarray(q_evaluate, jnp.float32)[chosen], 0.0)


def _prepare(
    rewards: chex.Array, discounts: chex.Array, values: chex.Array, valid: chex.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Checked float32 `rewards, discounts, values [T]`, zeroed where they must not count, and `follows [T]`
    bool.

    `follows[t]` says that step t + 1 exists and was played.
    """
    chex.assert_rank([rewards, discounts, values], 1)
    chex.assert_equal_shape([rewards, discounts, values])
    rewards, discounts, values = (jnp.asarray(x, jnp.float32) for x in (rewards, discounts, values))
    if valid is None:
        valid = jnp.ones(rewards.shape, bool)
    chex.assert_rank(valid, 1)
    chex.assert_type(valid, bool)
    chex.assert_equal_shape([rewards, valid])
    rewards = jnp.where(valid, rewards, 0.0)
    discounts = jnp.where(valid, discounts, 0.0)
    # Zeroed rather than multiplied by 0, because 0 * inf is NaN.
    values = jnp.where(discounts != 0.0, values, 0.0)
    return rewards, discounts, values, _next(valid)


def _next(sequence: chex.Array) -> jax.Array:
    """`sequence [T]` seen one step later: `[s_1, ..., s_{T-1}, 0]`."""
    return jnp.concatenate([sequence[1:], jnp.zeros_like(sequence[:1])])
