"""Made-up trajectories for the tests of summaries."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hyprl_jax.evaluation import COLUMNS


def frame(
    method: str,
    seed: int,
    tasks: int = 3,
    seeds: tuple[int, ...] = (0, 1),
    trials: int = 4,
    first_task: int = 0,
) -> pd.DataFrame:
    """Falling curves with ties between methods, rows shuffled."""
    rng = np.random.default_rng(seed)
    names = [f"t{index}" for index in range(first_task, first_task + tasks)]
    index = pd.MultiIndex.from_product([names, seeds, range(1, trials + 1)], names=["task", "seed", "trial"])
    drawn = rng.integers(0, 9, (tasks * len(seeds), trials)) / 8
    regret = np.minimum.accumulate(drawn, axis=1).ravel()
    rows = index.to_frame(index=False).assign(method=method, collection="c", normalized_regret=regret)
    rows = rows.assign(config_id=7, objective=regret, incumbent=regret, cost=np.nan)
    rows = rows.assign(suggest_seconds=rng.random(len(rows)))
    return rows.sample(frac=1.0, random_state=seed)[list(COLUMNS)].astype(COLUMNS).reset_index(drop=True)
