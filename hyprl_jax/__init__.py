"""HypRL-JAX: pretrained policies for hyperparameter optimization, learned on response surfaces as arrays."""

__version__ = "0.1.0"
