"""Choosing among legal actions: argmax, uniform draw, epsilon-greedy, and the epsilon schedules by name.

Every chooser works on one state (`q [N]`, `legal [N]`; batching by the caller's `vmap`), returns an int32
index, and never returns an illegal one. Where nothing is legal the answer is `NOTHING_LEGAL` (-1): as an
index it is harmless (it wraps to the last entry) and the caller can tell it from a choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp

from hyprl_jax.errors import InputError

__all__ = [
    "NOTHING_LEGAL",
    "SCHEDULES",
    "constant_epsilon",
    "epsilon_greedy",
    "epsilon_schedule",
    "exponential_epsilon",
    "largest",
    "linear_epsilon",
    "masked_argmax",
    "random_legal",
]

NOTHING_LEGAL = -1

_BLOCK = 16  # actions looked at together by `random_legal`
_FEW = 128  # actions of which `largest` looks at the place and most of the value in one number
_USED = -(2**31)  # below the bits of every value

Schedule = Callable[[chex.Numeric], jax.Array]


def masked_argmax(q: chex.Array, legal: chex.Array) -> jax.Array:
    """Index of the largest legal `q`, int32 scalar; `NOTHING_LEGAL` if none is legal.

    Ties go to the first index. A legal value of minus infinity is still preferred to every illegal one; if a
    legal value is NaN, the first legal index is taken. `q [N]` float, `legal [N]` bool.
    """
    _check_choice(legal, q)
    masked = jnp.where(legal, q, -jnp.inf)
    # A maximum and a minimum are several times faster on CPU than an argmax, which cannot be vectorised.
    best = legal & ~(masked < jnp.max(masked))
    size = legal.shape[0]
    first = jnp.min(jnp.where(best, jnp.arange(size, dtype=jnp.int32), size))
    return jnp.where(first < size, first, NOTHING_LEGAL)


def random_legal(key_or_uniform: chex.Array, legal: chex.Array) -> jax.Array:
    """One of the legal actions with equal probability, int32 scalar; `NOTHING_LEGAL` if none is legal.

    Takes one uniform number in [0, 1) or a PRNG key to draw it from: the action is the `floor(uniform *
    number of legal actions)`-th legal one. The counts are integers, so that tables of any size are exact; a
    product that rounds up to the number of legal actions is brought back to the last of them. `legal [N]`
    bool.
    """
    _check_choice(legal)
    uniform = jax.random.uniform(key_or_uniform) if _is_key(key_or_uniform) else jnp.asarray(key_or_uniform)
    chex.assert_rank(uniform, 0)
    # The place is looked up among the blocks first and then within one: two short cumulative counts cost a
    # quarter of a long one.
    blocks = jnp.pad(legal, (0, -legal.shape[0] % _BLOCK)).reshape(-1, _BLOCK)
    in_block = jnp.sum(blocks, axis=1, dtype=jnp.int32)
    up_to_block = jnp.cumsum(in_block, dtype=jnp.int32)
    number = up_to_block[-1]
    place = jnp.clip(jnp.floor(uniform * number).astype(jnp.int32), 0, number - 1)
    block = jnp.sum(up_to_block <= place, dtype=jnp.int32)
    place_in_block = place - jnp.sum(jnp.where(up_to_block <= place, in_block, 0))
    within = jnp.cumsum(blocks[jnp.minimum(block, blocks.shape[0] - 1)], dtype=jnp.int32)
    chosen = block * _BLOCK + jnp.sum(within <= place_in_block, dtype=jnp.int32)
    return jnp.where(number > 0, chosen, NOTHING_LEGAL)


def largest(values: chex.Array, number: int) -> jax.Array:
    """Indices `[number]` int32 of the largest `values [N]`, largest first, ties to the first index.

    `values` are float32, finite, and either not negative or -1. On a CPU up to 128 values count as tied that
    differ by less than a 65536th of themselves.
    """
    total = values.shape[0]
    if jax.default_backend() != "cpu":
        return jax.lax.top_k(values, number)[1].astype(jnp.int32)
    # Taking maxima of whole numbers, one after the other, is several times faster on CPU than `top_k`, which
    # sorts. The bits of floats that are not negative are in the order of the floats.
    places = jnp.arange(total, dtype=jnp.int32)
    bits = jnp.where(values == 0.0, 0, jax.lax.bitcast_convert_type(values, jnp.int32))  # -0.0 as 0.0
    if total > _FEW:

        def take(left: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            first = jnp.min(jnp.where(left == jnp.max(left), places, total))
            return jnp.where(places == first, _USED, left), first

        return jax.lax.scan(take, bits, None, length=number)[1]
    last = _FEW - 1

    def take_packed(left: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        most = jnp.max(left)
        return jnp.where(left == most, _USED, left), last - (most & last)

    return jax.lax.scan(take_packed, (bits & ~last) | (last - places), None, length=number)[1]


def epsilon_greedy(key: chex.PRNGKey, q: chex.Array, legal: chex.Array, epsilon: chex.Numeric) -> jax.Array:
    """With probability `epsilon` a random legal action, otherwise the greedy one; int32 scalar.

    Ties of the greedy choice go to the first index; `NOTHING_LEGAL` if none is legal. `q [N]` float, `legal
    [N]` bool, `epsilon` a scalar in [0, 1] that may be traced.
    """
    _check_choice(legal, q)
    chex.assert_rank(epsilon, 0)
    whether, which = jax.random.uniform(key, (2,))
    return jnp.where(whether < epsilon, random_legal(which, legal), masked_argmax(q, legal))


def constant_epsilon(
    count: chex.Numeric, start: chex.Numeric, end: chex.Numeric, steps: chex.Numeric
) -> jax.Array:
    """`start` at every count; `end` and `steps` are not used. float32 scalar."""
    del end, steps
    return jnp.broadcast_to(jnp.asarray(start, jnp.float32), jnp.shape(count))


def linear_epsilon(
    count: chex.Numeric, start: chex.Numeric, end: chex.Numeric, steps: chex.Numeric
) -> jax.Array:
    """From `start` to `end` in a straight line over the first `steps` counts; float32 scalar."""
    done = _share_done(count, steps)
    return jnp.asarray(start, jnp.float32) * (1.0 - done) + jnp.asarray(end, jnp.float32) * done


def exponential_epsilon(
    count: chex.Numeric, start: chex.Numeric, end: chex.Numeric, steps: chex.Numeric
) -> jax.Array:
    """From `start` to `end`, both above 0, by a constant factor a count in `steps`; float32 scalar."""
    done = _share_done(count, steps)
    return jnp.asarray(start, jnp.float32) ** (1.0 - done) * jnp.asarray(end, jnp.float32) ** done


SCHEDULES: dict[str, Callable[..., jax.Array]] = {
    "constant": constant_epsilon,
    "exponential": exponential_epsilon,
    "linear": linear_epsilon,
}


def epsilon_schedule(name: str, start: float, end: float, steps: int) -> Schedule:
    """The schedule `count -> epsilon` called `name`, a pure function that may be used inside jit.

    For values that are swept (traced), call the functions in `SCHEDULES` directly. Raises InputError for an
    unknown name or for values that no schedule can have.
    """
    if name not in SCHEDULES:
        raise InputError(f"unknown epsilon schedule {name!r}: choose one of {', '.join(sorted(SCHEDULES))}")
    for what, value in (("start", start), ("end", end)):
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise InputError(f"epsilon {what} is {value}: give a probability between 0 and 1")
    if name == "exponential" and min(start, end) <= 0.0:
        raise InputError(
            "an exponential epsilon schedule never reaches 0: give start and end above 0, or use linear"
        )
    if steps < 0:
        raise InputError(f"epsilon steps is {steps}: give 0 or more")
    return partial(SCHEDULES[name], start=start, end=end, steps=steps)


def _share_done(count: chex.Numeric, steps: chex.Numeric) -> jax.Array:
    """`count / steps` within [0, 1], float32; a schedule of 0 steps is done from the start."""
    steps = jnp.asarray(steps, jnp.float32)
    share = jnp.asarray(count, jnp.float32) / jnp.maximum(steps, 1.0)
    return jnp.where(steps > 0, jnp.clip(share, 0.0, 1.0), 1.0)


def _check_choice(legal: chex.Array, q: chex.Array | None = None) -> None:
    """Asserts `legal [N]` bool with N >= 1 and, if given, `q [N]` float."""
    chex.assert_rank(legal, 1)
    chex.assert_type(legal, bool)
    if q is not None:
        chex.assert_type(q, float)
        chex.assert_equal_shape([q, legal])
    if legal.shape[0] == 0:
        raise ValueError("there must be at least one action, legal or not")


def _is_key(value: chex.Array) -> bool:
    """Whether `value` is one PRNG key: a typed one, or the old kind, a vector of uint32."""
    dtype = jnp.asarray(value).dtype
    return bool(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)) or dtype == jnp.uint32
