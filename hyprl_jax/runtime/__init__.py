"""A pretrained policy without jax: NumPy (and safetensors) are all that this package imports.

`Tuner` asks and tells; `Space` and its hyperparameters describe what is searched; `load_policy` reads an
exported policy. See docs/runtime.md.
"""

from hyprl_jax.encoding import Parameter
from hyprl_jax.runtime.conditions import Condition, when
from hyprl_jax.runtime.metafeatures import EarlierTask
from hyprl_jax.runtime.parameters import Categorical, Constant, Float, Integer, Ordinal
from hyprl_jax.runtime.policy import Policy, default_policy, load_policy
from hyprl_jax.runtime.space import Config, Space
from hyprl_jax.runtime.tuner import NothingLeft, Result, Tuner

__all__ = [
    "Categorical",
    "Condition",
    "Config",
    "Constant",
    "EarlierTask",
    "Float",
    "Integer",
    "NothingLeft",
    "Ordinal",
    "Parameter",
    "Policy",
    "Result",
    "Space",
    "Tuner",
    "default_policy",
    "load_policy",
    "when",
]
