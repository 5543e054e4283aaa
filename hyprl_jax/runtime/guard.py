"""The numbers of the guard against negative transfer; see `hyprl_jax.surrogate`."""

FARTHER = 10.0
"""How many times farther than the known tasks, in standard deviations, an unlike task may lie."""
FAR_SHARE = 0.1
"""Probability that it does, before the first trial."""
MOST = 0.5
"""What the process that knows no other task may count for: where many results are equally bad, constant ones
explain them best, and nothing would be searched for any more."""
CHANCE = 0.5
"""Share of tested pairs that a known task ranks otherwise by chance: retrieval is worth nothing there."""
TRUSTED = 0.25
"""The share up to which retrieval counts in full."""
