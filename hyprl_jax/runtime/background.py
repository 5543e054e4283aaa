"""What is known of a search before its first trial: assumptions, earlier tasks, and what the dataset is like.

It depends on the space: in one that the policy was trained on it takes what was learned there and the tasks
that the policy carries, unless the user gives earlier tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.runtime.belief import WARM, Beliefs, Posterior
from hyprl_jax.runtime.cold import ColdPosterior
from hyprl_jax.runtime.likeness import unlikeness
from hyprl_jax.runtime.metafeatures import check_names, vector
from hyprl_jax.runtime.policy import Policy
from hyprl_jax.runtime.prior import EarlierTasks, Surfaces, fitting, gather
from hyprl_jax.runtime.space import Config, Space

Results = Sequence[tuple[Config, float | None]]


class Background(NamedTuple):
    """What is known before the first trial."""

    beliefs: Beliefs
    surfaces: Surfaces | None
    """Of the earlier tasks, None if there are none."""
    unlikeness: np.ndarray | None
    """`[K]` of the earlier tasks' datasets; None: all count the same."""
    inputs: np.ndarray | None
    """`[M]` metafeatures as the network reads them; None: unknown, or it reads none."""

    @classmethod
    def of(
        cls,
        policy: Policy,
        space: Space,
        earlier: Sequence[Results],
        described: Sequence[Mapping[str, float]],
        metafeatures: Mapping[str, float] | None,
        sign: float,
    ) -> Background:
        """What `policy` knows of a search in `space`.

        Args:
            earlier, described: results of the user's earlier tasks and the metafeatures of their datasets.
            metafeatures: of the dataset at hand; None: nothing is known of it.
            sign: -1 where the objective is minimised.

        Raises:
            InputError: the policy does not fit the space, or `metafeatures` has an unknown name.
        """
        mine = space.to_dict()
        collection = next((name for name, known in policy.spaces.items() if known == mine), None)
        beliefs = _assumptions(policy, space, collection, bool(earlier))
        tasks, names = _tasks(policy, space, collection, earlier, described, sign)
        if metafeatures is not None:
            check_names(metafeatures, [*names, *policy.metafeature_names], policy.name)
        apart = inputs = None
        if metafeatures is not None and tasks is not None and tasks.metafeatures is not None:
            apart = unlikeness(vector(names, metafeatures), tasks.metafeatures)
        width = policy.network.metafeatures
        own = policy.metafeatures.get(collection) if collection else None
        if metafeatures is not None and width and own is not None:
            inputs = own.network_input(width, metafeatures)
        surfaces = None if tasks is None else Surfaces(tasks, space, calm=beliefs.denoise > 0)
        return cls(beliefs, surfaces, apart, inputs)

    def posterior(self, space: Space, encodings: np.ndarray, values: np.ndarray) -> Posterior | ColdPosterior:
        """The belief about candidates with features `[N, F]` at which the earlier tasks have the values `[K,
        N]`."""
        if self.beliefs.prior == "cold":
            unknown = not isinstance(self.beliefs.lengthscale, tuple)
            return ColdPosterior(encodings, self.beliefs, space.feature_scales() if unknown else 1.0)
        surfaces, nothing = self.surfaces, np.zeros(0)
        lower, span = (surfaces.lower, surfaces.span) if surfaces else (nothing, nothing)
        return Posterior(encodings, values, lower, span, self.beliefs, self.unlikeness)


def _assumptions(policy: Policy, space: Space, collection: str | None, informed: bool) -> Beliefs:
    """What the surrogate assumes in `space`, which is that of `collection` if it is known."""
    width, own = policy.encoding_features, len(space.feature_names)
    if width and own != width and (collection is None or own > width):  # narrower ones it knows are padded
        raise InputError(
            f"policy '{policy.name}' reads encodings of {width} features and works in its own space "
            f"only; this space has {own}"
        )
    beliefs = policy.numbers.get(collection or "", policy.beliefs)
    scales = beliefs.lengthscale
    if isinstance(scales, tuple) and len(scales) != len(space.feature_names):
        raise InputError(f"policy '{policy.name}' has lengthscales for another space")
    # Earlier tasks are worth more than a cold start, even to a policy that was trained for one.
    return WARM if informed and beliefs.prior in ("cold", "constant") else beliefs


def _tasks(
    policy: Policy,
    space: Space,
    collection: str | None,
    earlier: Sequence[Results],
    described: Sequence[Mapping[str, Any]],
    sign: float,
) -> tuple[EarlierTasks | None, tuple[str, ...]]:
    """The earlier tasks, those given or else those that the policy carries for this space, and the names of
    their metafeatures."""
    if earlier:
        names = tuple(dict.fromkeys(name for one in described for name in one))
        rows = np.stack([vector(names, one) for one in described]) if names else None
        return gather(space, earlier, sign)._replace(metafeatures=rows), names
    carried = policy.prior.get(collection) if collection else None
    if carried is None:
        return None, ()
    names = policy.metafeatures[str(collection)].names if carried.metafeatures is not None else ()
    return fitting(carried, space), names
