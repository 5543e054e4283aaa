"""Policies made on the spot, so that tests of ask and tell need no trained one."""

from __future__ import annotations

import numpy as np

from hyprl_jax.runtime import Policy
from hyprl_jax.runtime.belief import Beliefs
from hyprl_jax.runtime.episode import CANDIDATE_FEATURES, CONTEXT_FEATURES
from hyprl_jax.runtime.network import Architecture, Network, shapes

COLD = Beliefs("cold", 1.0, 1.0, 0.5, 0.01, 8.0, 32.0, 0.0)
LEARNED = Beliefs("learned", 0.1, 1.0, 1.2, 0.003, 8.0, 32.0, 0.4)


def make_policy(beliefs: Beliefs = COLD, members: int = 2, seed: int = 0, strength: float = 0.3) -> Policy:
    """A policy with random weights: the acquisition function, corrected by chance a little."""
    architecture = Architecture("gru", 8, 8, 1, "surrogate", 8, False, True, 0.5, True, True)
    generator = np.random.default_rng(seed)
    weights = {
        name: strength * generator.standard_normal((members, *shape))
        for name, shape in shapes(architecture, len(CONTEXT_FEATURES), len(CANDIDATE_FEATURES), 0).items()
    }
    return Policy("made on the spot", Network(architecture, weights), beliefs, 25, 0)
