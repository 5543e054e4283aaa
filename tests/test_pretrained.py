"""The policy that ships: whole, small, described, and better than chance on tasks it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.runtime import Space, Tuner, default_policy
from hyprl_jax.surfaces import find_collection, load_tables, make_split, read_collection

FOLDER = Path(__file__).resolve().parent.parent / "hyprl_jax" / "pretrained" / "default"


def test_it_is_whole_and_small() -> None:
    policy = default_policy()
    assert policy.name == "default" and policy.encoding_features == 0
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert {"policy.json", "weights.safetensors", "policy.onnx", "policy.stablehlo", "MODEL_CARD.md"} == set(
        files
    )
    assert sum(files.values()) < 400_000


def test_its_card_says_what_it_was_trained_on() -> None:
    training = default_policy().description["training"]
    collections = [entry["name"] for entry in training["collections"]]
    assert collections == ["mlp", "svm", "boosting"]
    for entry in training["collections"]:
        assert entry["content_hash"] in (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert load_tables(entry["name"]).content_hash == entry["content_hash"], (
            "retrain it, or mend the card"
        )


def test_it_beats_chance_on_tasks_that_it_was_not_trained_on() -> None:
    """Normalised regret after 20 trials, in comparison with its expectation under random search."""
    cases = [(collection, draw) for collection in ("mlp", "svm", "boosting") for draw in range(3)]
    ours, chance = np.transpose([_regrets(*case) for case in cases])
    assert ours.mean() < 0.8 * chance.mean()


def _regrets(collection: str, draw: int) -> tuple[float, float]:
    """Mean regret of the policy and of random search on the held-out tasks of a collection, over some of its
    configurations."""
    table, tuners_space, configs = load_tables(collection), *_configs(collection)
    sign = 1.0 if table.direction == "maximize" else -1.0
    split = make_split(table, "kfold5", 0, 0.2)
    columns = np.random.default_rng(draw).permutation(table.objective.shape[1])[:120]
    ours, chance = [], []
    for task in split.test:
        values = sign * table.objective[list(table.tasks).index(task)]
        offered = [column for column in columns if np.isfinite(values[column])]
        regret = (values[offered].max() - values[offered]) / max(np.ptp(values[offered]), 1e-12)
        known = {str(configs[column]): float(regret[place]) for place, column in enumerate(offered)}
        tuner = Tuner(tuners_space, candidates=[configs[column] for column in offered], trials=20)
        for _ in range(20):
            config = tuner.ask()
            tuner.tell(config, known[str(config)])
        assert tuner.best is not None and tuner.best.value is not None
        ours.append(tuner.best.value)
        chance.append(_expected_minimum(regret, 20))
    return float(np.mean(ours)), float(np.mean(chance))


def _configs(name: str) -> tuple[Space, list[dict[str, Any]]]:
    """The space of a collection and its configurations, as a tuner writes them."""
    collection = read_collection(find_collection(name))
    space = Space.from_configspace(collection.space)
    rows = collection.configs.drop(columns="config_id").to_dict("records")
    given = [{key: value for key, value in row.items() if not pd.isna(value)} for row in rows]
    return space, space.configs(space.codes(given))


def _expected_minimum(values: np.ndarray, draws: int) -> float:
    """Mean of the least of `draws` values drawn without replacement."""
    ordered = np.sort(values)
    count = len(ordered)
    above = 1.0  # probability that all draws lie at or beyond the place
    total = 0.0
    for place, value in enumerate(ordered):
        left = count - place
        here = above * min(1.0, draws / left)
        total += here * value
        above -= here
        if above <= 1e-12:
            break
    return total


def test_any_space_will_do() -> None:
    space = Space.from_dict({"parameters": [{"name": "x", "kind": "float", "lower": 0.0, "upper": 1.0}]})
    tuner = Tuner(space)
    for _ in range(8):
        config = tuner.ask()
        tuner.tell(config, (config["x"] - 0.3) ** 2)
    assert tuner.best is not None and float(tuner.best.value or 0.0) < 0.01
