"""HypRL-JAX: pretrained policies for hyperparameter optimization, learned on tables that live on the device."""

__version__ = "0.1.0"
