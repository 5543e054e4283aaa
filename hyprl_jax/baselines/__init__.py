"""Methods that choose on the device without a trained policy: static lists, acquisition functions, published
transfer methods.

All run in the same loop as the policies (`rollout.play`) and see the same `View`. What they know of earlier
tasks is what a policy knows at test time: the training and validation tasks of the fold.

- `random`: uniformly among the untried configurations.
- `mean_list`: configurations by their mean normalised score over the known tasks.
- `portfolio`: the greedy portfolio: next is the configuration that most improves the mean, over the known
  tasks, of the best score reached so far; when nothing improves, the mean decides.
- `gp_ei`: expected improvement under a Gaussian process that knows no other task.
- `prior_ei`: expected improvement under the process with mean and covariance learned from the known tasks.
- `start`: the acquisition function that policies start from (`surrogate.acquire`).
- those of `TRANSFER`: see their modules, which cite the papers.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp

from hyprl_jax.baselines.baseline import PLAIN, Baseline
from hyprl_jax.baselines.cold import cold_memory, cold_player
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.env import Task
from hyprl_jax.errors import InputError
from hyprl_jax.players import score_player
from hyprl_jax.rollout import Background, View


def _nothing(shared: Background, task: Task, config: EnvConfig, prepared: Any) -> None:
    del shared, task, config, prepared


def _random(view: View, key: jax.Array) -> jax.Array:
    return jax.random.uniform(key, view.known.mean.shape)


def _mean_list(view: View, key: jax.Array) -> jax.Array:
    del key
    return view.known.mean


def _portfolio(view: View, key: jax.Array) -> jax.Array:
    del key
    ahead = jnp.maximum(view.known.examples - view.state.reached[:, None], 0.0)
    return view.known.weights @ ahead + 1e-6 * view.known.mean


def _prior_ei(view: View, key: jax.Array) -> jax.Array:
    del key
    return view.belief.expected_improvement


def _start(view: View, key: jax.Array) -> jax.Array:
    del key
    return view.acquired.acquisition


def _simple(name: str, learned: SurrogateConfig) -> Baseline:
    """The baselines of this module."""
    ours = ("similarity", "freedom", "mean_variance", "guard", "tune", "denoise")
    plain = dataclasses.replace(learned, **{name: getattr(PLAIN, name) for name in ours})
    table = {
        "random": Baseline(score_player(_random), _nothing, True, plain),
        "mean_list": Baseline(score_player(_mean_list), _nothing, False, plain),
        "portfolio": Baseline(score_player(_portfolio), _nothing, False, plain),
        "gp_ei": Baseline(cold_player, cold_memory, True, plain),
        "prior_ei": Baseline(score_player(_prior_ei), _nothing, False, plain),
        "start": Baseline(score_player(_start), _nothing, False, learned),
    }
    return table[name]


BASELINES = ("random", "mean_list", "portfolio", "gp_ei", "prior_ei")
"""The methods that every evaluation is compared with."""

TRANSFER = {
    "tst_r": "transfer:TST_R",
    "tst_m": "transfer:TST_M",
    "taf_r": "transfer:TAF_R",
    "taf_m": "transfer:TAF_M",
    "rgpe": "transfer:RGPE",
    "ablr": "learned:ABLR",
    "fsbo": "learned:FSBO",
    "hyperbo": "learned:HYPERBO",
    "fmlp": "learned:FMLP",
}
"""Published methods that learn from the known tasks: name -> where its baseline is, imported when needed."""

DEVICE_BASELINES = (*BASELINES, "start", *TRANSFER)
"""All methods without a policy that are played on the device."""


def make_baseline(name: str, beliefs: SurrogateConfig | None = None) -> Baseline:
    """The baseline called `name`; InputError for an unknown name.

    `beliefs` configures the surrogate of `prior_ei` and `start` (defaults otherwise).
    """
    if name not in DEVICE_BASELINES:
        raise InputError(
            f"unknown method {name!r}: use policy, policy_ensemble, {', '.join(DEVICE_BASELINES)}"
        )
    if name in TRANSFER:
        module, _, attribute = TRANSFER[name].partition(":")
        baseline: Baseline = getattr(import_module(f"hyprl_jax.baselines.{module}"), attribute)
        return baseline
    return _simple(name, beliefs or SurrogateConfig())
