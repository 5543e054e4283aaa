"""Studies of the folder `benchmarks` in moments: untrained policies, quick compilation, pages made again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import studies_common as common

from hyprl_jax import bank as banks
from hyprl_jax import fitting
from hyprl_jax.cli.common import SUCCESS
from hyprl_jax.config import TrainConfig
from hyprl_jax.learner import candidate_width
from hyprl_jax.networks import FlaxNetwork
from hyprl_jax.policies import TrainedPolicy
from hyprl_jax.rollout import CONTEXT_FEATURES
from hyprl_jax.surfaces import TaskTables, make_split


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Programs that take longer to compile than to run are compiled without most optimizations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def untrained(config: TrainConfig, tables: TaskTables) -> TrainedPolicy:
    """A policy as it is before training, with the numbers of the configuration."""
    bank = jax.tree.map(jnp.asarray, banks.pack([tables])[0])
    network, width = FlaxNetwork(config.network), candidate_width(bank, config)
    make = lambda key: network.init(key, bank.metafeatures.shape[1], len(CONTEXT_FEATURES), width)
    shape = (len(config.folds), len(config.seeds))
    keys = jax.random.split(jax.random.key(0), shape)
    numbers = fitting.numbers_of(bank, config.surrogate)
    spread = lambda leaf: jnp.broadcast_to(leaf, (*shape, *leaf.shape))
    known = [make_split(tables, config.split, fold, config.validation_fraction) for fold in config.folds]
    group = dict(zip(tables.tasks, tables.groups, strict=True))
    return TrainedPolicy(
        config=config,
        params=jax.vmap(jax.vmap(make))(keys),
        numbers=jax.tree.map(spread, numbers),
        collections=(tables.collection,),
        groups=tuple(frozenset(group[task] for task in (*split.train, *split.validation)) for split in known),
        encoding_features=bank.encodings.shape[-1],
        metafeatures=bank.metafeatures.shape[1],
        metafeature_offsets={tables.collection: 0},
    )


def kept_page(
    main: Callable[[list[str]], int],
    kind: str,
    study: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The page of the finished `study` of a kind, kept in `results`: the same when it is made again from the
    one file that was kept, and printed each time."""
    monkeypatch.setattr(common, "RESULTS", results)
    capsys.readouterr()
    assert main(["--table", "--out", str(study), "--keep", "tiny"]) == SUCCESS
    page = (results / f"{kind}-tiny.md").read_text()
    assert page in capsys.readouterr().out
    assert main(["--table", "--out", str(results / f"{kind}-tiny.json")]) == SUCCESS
    assert page in capsys.readouterr().out
    return page
