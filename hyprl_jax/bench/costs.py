"""What a compiled function costs: floating-point operations and bytes by XLA's own cost analysis, loops
counted as often as they run.

XLA counts the body of a loop once, however often it runs. So the body of every `scan` (and of every
`fori_loop` with known bounds, which is one) is compiled on its own, with as many turns side by side as the
loop unrolls, counted and multiplied; loops within loops alike. Three things stay as XLA counts them.
Transcendental functions are apart from other operations. A library call, `top_k` on a CPU for instance,
counts nothing. And a gather from an array counts as reading all of it, a scatter into one as reading and
writing all of it, though only a row or a column is touched: bytes are an upper bound where there are such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun


class Cost(NamedTuple):
    """Of one call."""

    flops: float
    """Additions, multiplications, comparisons and the like, one each."""
    transcendentals: float
    """Exponentials, logarithms, square roots and the like."""
    bytes: float
    """Read and written by the operations that XLA made of the function."""

    def times(self, factor: float) -> Cost:
        """The cost of `factor` such calls."""
        return Cost(*(factor * part for part in self))

    def plus(self, other: Cost) -> Cost:
        """The cost of both."""
        return Cost(*(mine + its for mine, its in zip(self, other, strict=True)))


def count(function: Callable, *arguments: Any, compiled: Any = None) -> Cost:
    """The cost of `function(*arguments)`; `compiled` is the function compiled for them, if there is one
    already.

    Loops whose number of turns is not known before they run count as one turn.
    """
    traced = jax.make_jaxpr(function)(*arguments)
    own = analysed(compiled or jax.jit(function).lower(*arguments).compile())
    return own.plus(_repeats(traced.jaxpr))


def analysed(compiled: Any) -> Cost:
    """What XLA says of a compiled function: the body of a loop counts once."""
    found = compiled.cost_analysis()
    # Below 0 stands for "not known".
    values = (max(0.0, found.get(name, 0.0)) for name in ("flops", "transcendentals", "bytes accessed"))
    return Cost(*values)


def _repeats(jaxpr: Jaxpr) -> Cost:
    """What all turns of all loops but the first ones cost."""
    total = Cost(0.0, 0.0, 0.0)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            total = total.plus(_repeats_of_scan(equation.params))
        else:
            for inner in _within(equation.params.values()):
                total = total.plus(_repeats(inner))
    return total


def _repeats_of_scan(params: dict[str, Any]) -> Cost:
    """What a loop costs beyond what XLA counts: it has `unroll` turns side by side, once, and those that are
    left over when it is done."""
    body, unroll = params["jaxpr"], min(max(1, int(params["unroll"])), params["length"])
    rounds, over = divmod(params["length"], max(unroll, 1))
    within = _repeats(body.jaxpr)
    total = within.times(unroll * min(rounds, 1) + over)
    if rounds > 1:
        constants = params["num_consts"], params["num_carry"]
        turns = partial(_turns, jaxpr_as_fun(body), *constants, unroll)
        items = body.in_avals[sum(constants) :]
        given = [*body.in_avals[: sum(constants)], *(items * unroll)]
        compiled = jax.jit(turns).lower(*given).compile()
        total = total.plus(analysed(compiled).plus(within.times(unroll)).times(rounds - 1))
    return total


def _turns(body: Callable, constants: int, carried: int, times: int, *given: Any) -> tuple[Any, ...]:
    """So many turns of a loop at once: what is carried on, and the items of each turn."""
    fixed, carry, items = given[:constants], given[constants:][:carried], given[constants + carried :]
    each, made = len(items) // times, []
    for turn in range(times):
        results = body(*fixed, *carry, *items[turn * each : (turn + 1) * each])
        carry = results[:carried]
        made += results[carried:]
    return (*carry, *made)


def _within(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _within(value)
