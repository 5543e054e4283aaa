"""Collections of our own: response surfaces computed by really training models, task by task.

    build("svm", Path("my_svm"), seed=0)          # or: python -m hyprl_jax surfaces build svm --out my_svm

`RECIPES` names what can be built. A build that was stopped, by Ctrl-C or `kill -9`, goes on when it is called
again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.build import boosting, mlp, svm
from hyprl_jax.surfaces.build.engine import PiecesFailed, Where, make_plan, run_plan
from hyprl_jax.surfaces.build.progress import Progress, show_progress
from hyprl_jax.surfaces.build.recipe import Recipe

__all__ = ["RECIPES", "PiecesFailed", "Progress", "Recipe", "build", "show_progress"]

RECIPES: dict[str, Recipe] = {module.recipe().name: module.recipe() for module in (mlp, svm, boosting)}


def build(
    recipe: str,
    out: Path | str,
    seed: int = 0,
    jobs: int | None = None,
    tasks: Iterable[str] | int | None = None,
    configs: int | None = None,
    progress: Progress | None = None,
    ray: str | None = None,
    retry: bool = False,
) -> Path:
    """Compute the collection of a recipe by training its models, and put it at `out` (which must not exist
    yet).

    jobs: worker processes, by default one for each core. tasks: names, or how many from the front of the
    catalogue; all by default. configs: how many configurations; the recipe's own number by default. progress:
    called with `(done, total, label)` after each piece. ray: compute on the Ray cluster at this address
    (`local`: one of its own on this machine) instead of `jobs` processes. retry: compute again what failed in
    an earlier call.

    Raises InputError on unknown names, an `out` that is taken, a full disk; PiecesFailed if processes died or
    could not go on (a training that fails is only left out of the tables).
    """
    if recipe not in RECIPES:
        near = difflib.get_close_matches(recipe, RECIPES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"there is no recipe {recipe!r}{hint}: choose one of {', '.join(RECIPES)}")
    where = Where(jobs, ray, retry)
    return run_plan(make_plan(RECIPES[recipe], seed, tasks, configs), Path(out), where, progress)
