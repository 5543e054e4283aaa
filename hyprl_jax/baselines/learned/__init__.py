"""Baselines that meta-learn a surrogate from the known tasks before they play.

- `ABLR`: Bayesian linear regression on shared features (Perrone et al. 2018).
- `FSBO`: a deep kernel with rescaled labels and a warm start (Wistuba and Grabocka 2021).
- `HYPERBO`: a Gaussian process with pretrained mean and kernel (Wang et al. 2021).
- `FMLP`: a factorized multilayer perceptron with dataset embeddings (Schilling et al. 2015).

`prepare` trains once a fold, with fixed keys, on the fold's known tasks alone; everything is vectorised over
tasks and seeds.
"""

from hyprl_jax.baselines.learned.ablr import ABLR
from hyprl_jax.baselines.learned.fmlp import FMLP
from hyprl_jax.baselines.learned.fsbo import FSBO
from hyprl_jax.baselines.learned.hyperbo import HYPERBO

__all__ = ["ABLR", "FMLP", "FSBO", "HYPERBO"]
