"""BoTorch's Gaussian process over a table.

A `SingleTaskGP` with its defaults (a kernel with a lengthscale for every feature, dimension-scaled priors,
Hvarfner et al., ICML 2024; outcomes standardised) on the encodings of the configurations, fitted anew for
every suggestion; `LogExpectedImprovement` (Ament et al., NeurIPS 2023) is maximised over the untried
configurations themselves by `optimize_acqf_discrete`. BoTorch leaves the first trials to the user: as in Ax,
its own front end, they are scrambled Sobol points of the unit cube, here the nearest untried configurations,
a fifth of the trials but at least 5 and at most twice the number of hyperparameters; starting points count.
"""

from __future__ import annotations

import warnings

import numpy as np

from hyprl_jax.baselines.libraries.problem import Candidates, TableProblem

__all__ = ["BoTorchGP"]


class BoTorchGP:
    """Single-task Gaussian process, log expected improvement."""

    def __init__(self, problem: TableProblem) -> None:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(problem.seed)
        self._candidates = Candidates(problem)
        self._features = torch.tensor(problem.encodings, dtype=torch.float64, device="cpu")
        self._sign = 1.0 if problem.direction == "maximize" else -1.0
        self._columns: list[int] = []
        self._scores: list[float] = []
        self._sobol = _sobol_points(problem)

    def ask(self) -> int:
        asked = len(self._columns)
        if asked < len(self._sobol):
            return self._nearest(self._sobol[asked])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._best()

    def tell(self, column: int, objective: float) -> None:
        self._candidates.take(column)
        self._columns.append(column)
        self._scores.append(self._sign * objective)

    def _nearest(self, point: np.ndarray) -> int:
        """The untried column whose encoding is next to `point` `[F]`."""
        untried = self._candidates.untried
        gap = self._features.numpy()[untried] - point
        return int(untried[np.argmin((gap**2).sum(axis=1))])

    def _best(self) -> int:
        import torch
        from botorch.acquisition import LogExpectedImprovement
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from botorch.optim import optimize_acqf_discrete
        from gpytorch.mlls import ExactMarginalLogLikelihood

        scores = torch.tensor(self._scores, dtype=torch.float64).unsqueeze(-1)
        model = SingleTaskGP(self._features[self._columns], scores)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        acquisition = LogExpectedImprovement(model, best_f=scores.max())
        untried = self._candidates.untried
        choices = self._features[untried]
        best, _ = optimize_acqf_discrete(acquisition, q=1, choices=choices)
        return int(untried[int((choices == best).all(dim=1).nonzero()[0, 0])])


def _sobol_points(problem: TableProblem) -> np.ndarray:
    """`[I, F]` scrambled Sobol points, as many as the initial design has."""
    from scipy.stats import qmc

    hyperparameters = sum(p.kind != "constant" for p in problem.encoding.parameters)
    number = max(5, min(problem.trials // 5, 2 * hyperparameters))
    width = problem.encodings.shape[1]
    if width == 0:
        return np.zeros((number, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a number of points that is no power of two
        return qmc.Sobol(width, scramble=True, rng=np.random.default_rng(problem.seed)).random(number)
