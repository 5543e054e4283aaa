"""Flax, NumPy, ONNX Runtime and StableHLO: the same Q-values on real episodes, and the same choices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
import pytest
from exported_policies import Device, Played, collection_with_gaps, metafeatures_of, untrained_run
from jax import export as jax_export
from tiny_runs import NAMES, tiny_config, write_collections

from hyprl_jax import training
from hyprl_jax.config import NetworkConfig, SurrogateConfig
from hyprl_jax.export import export_policy
from hyprl_jax.runtime import Tuner, load_policy
from hyprl_jax.runtime.episode import Judgement
from hyprl_jax.runtime.network import Network
from hyprl_jax.surfaces import read_collection

TRIALS = 6
ARCHITECTURES = {
    "usual": {"context": 6, "hidden": 5},
    "lstm, two layers, metafeatures": {
        "cell": "lstm", "context": 6, "hidden": 5, "layers": 2, "candidates": "both", "shortlist": 4,
        "metafeatures": True,
    },
    "no memory, bare": {
        "cell": "none", "context": 5, "hidden": 4, "candidates": "encodings", "residual": False,
        "dueling": False, "layer_norm": False,
    },
    "gru, metafeatures, Q-values from nothing": {
        "context": 4, "hidden": 6, "layers": 2, "candidates": "both", "shortlist": 0, "metafeatures": True,
        "residual": False,
    },
    "lstm, bare": {
        "cell": "lstm", "context": 4, "hidden": 4, "shortlist": 3, "residual": False, "dueling": False,
        "layer_norm": False,
    },
    "no memory, metafeatures, all listed": {
        "cell": "none", "context": 6, "hidden": 5, "layers": 2, "shortlist": 0, "metafeatures": True,
        "residual_limit": 0.5, "layer_norm": False,
    },
    "no hidden layer": {"context": 4, "hidden": 3, "layers": 0, "dueling": False},
}  # fmt: skip


class Step:
    """One step of an exported policy in one of its forms: `(carry, context, features, start, top)`."""

    def __init__(self, exported: Path, form: str) -> None:
        policy = load_policy(exported)
        self.form, self.network = form, policy.network
        if form == "onnx":
            self.session = onnxruntime.InferenceSession(
                exported / "policy.onnx", providers=["CPUExecutionProvider"]
            )
            self.carries = policy.description["initial_carry"]["names"]
        elif form == "stablehlo":
            self.call = jax_export.deserialize(bytearray((exported / "policy.stablehlo").read_bytes())).call

    def __call__(self, carry: Any, context: Any, features: Any, start: Any, top: Any) -> tuple[Any, Any, Any]:
        """The next carry, Q-values `[B, S, C]` and scores `[B, C]`."""
        given = (context, features, start, top)
        if self.form == "onnx":
            parts = dict(zip(self.carries, jax.tree.leaves(carry), strict=True))
            named = dict(zip(("context", "features", "start", "top"), given, strict=True))
            *after, values, scores = self.session.run(None, {**parts, **named})
            return tuple(after) if len(after) == 2 else after[0], values, scores
        if self.form == "stablehlo":
            return self.call(carry, *given)
        each = [self._numpy(*one) for one in zip(_episodes(carry), *given, strict=True)]
        after = jax.tree.map(lambda *leaves: np.stack(leaves), *[one[0] for one in each])
        return after, np.stack([one[1] for one in each]), np.stack([one[2] for one in each])

    def _numpy(self, carry: Any, context: Any, features: Any, start: Any, top: Any) -> tuple[Any, Any, Any]:
        carry, hidden = self.network.advance(carry, context)
        values = self.network.values(hidden, features, start, float(top))
        return carry, values, self.network.advantages(hidden, features, start, float(top)).mean(0)


def _episodes(carry: Any) -> Iterator[Any]:
    """The carry of each episode of a batch."""
    leaves, structure = jax.tree.flatten(carry)
    return (structure.unflatten(list(parts)) for parts in zip(*leaves, strict=True))


def first_carry(network: Network, metafeatures: np.ndarray) -> Any:
    """Float32 carries `[B, S, H]` for metafeatures `[B, M]`."""
    each = [network.initial_carry(row) for row in metafeatures]
    return jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float32), *each)


def close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Within `tolerance`, of the largest number in sight where that is above 1."""
    size = max(1.0, float(np.abs(np.asarray(wanted)).max(initial=0.0)))
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=0, atol=tolerance * size)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_collections(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module", params=ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def made(
    request: pytest.FixtureRequest, paths: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Device, Played]:
    """An exported ensemble of two, the same on the device, and its episodes there."""
    folder = tmp_path_factory.mktemp("architecture")
    network = NetworkConfig(**request.param)
    run = untrained_run(folder / "run", paths["grid"], paths["conditional"], network=network, trials=TRIALS)
    export_policy(run, folder / "policy")
    device = Device(run)
    return folder / "policy", device, device.play()


@pytest.mark.parametrize("form", ["numpy", "onnx", "stablehlo"])
def test_every_form_gives_the_values_of_the_flax_network(
    made: tuple[Path, Device, Played], form: str
) -> None:
    exported, _, played = made
    step = Step(exported, form)
    carry = first_carry(load_policy(exported).network, played.metafeatures)
    for t in range(TRIALS):
        there = played.legal[:, t].any(1)
        inputs = (played.context[:, t], played.features[:, t], played.start[:, t], played.top[:, t])
        carry, values, scores = step(carry, *inputs)
        close(values[there], played.values[there, t])
        close(scores[there], played.advantages[there, t].mean(1))
        best = np.where(played.legal[:, t], np.asarray(scores), -np.inf).argmax(1)
        chosen = np.take_along_axis(played.columns[:, t], best[:, None], 1)[:, 0]
        assert (chosen == played.action[:, t])[there].all()


def test_whole_episodes_in_numpy_choose_what_the_device_chooses(made: tuple[Path, Device, Played]) -> None:
    episodes_agree(*made, 2e-5)


@pytest.mark.parametrize(
    ("prior", "similarity", "freedom"),
    [
        ("learned", True, 0.0),
        ("learned", True, 0.5),
        ("learned", True, 4.0),
        ("learned", False, 0.0),
        ("learned", False, 4.0),
        ("mean", True, 4.0),
    ],
)
def test_likeness_and_surprise_count_in_numpy_as_on_the_device(
    tmp_path: Path, prior: str, similarity: bool, freedom: float
) -> None:
    beliefs = SurrogateConfig(
        prior=prior, freedom=freedom, similarity=similarity, similarity_width=0.1, similarity_floor=0.1
    )
    path, network = collection_with_gaps(tmp_path), NetworkConfig(context=6, hidden=5, shortlist=0)
    run = untrained_run(tmp_path / "run", path, network=network, trials=TRIALS, surrogate=beliefs)
    export_policy(run, tmp_path / "policy")
    device = Device(run)
    episodes_agree(tmp_path / "policy", device, device.play(), 2e-5)
    weights = device.episode(tmp_path / "policy", 4, np.zeros(5)).posterior._weights
    assert (weights.max() > 1.5 * weights.min()) == similarity
    assert load_policy(tmp_path / "policy").numbers["grid"].freedom == freedom


def test_cold_episodes_in_numpy_choose_what_the_device_chooses(paths: dict[str, str], tmp_path: Path) -> None:
    cold = SurrogateConfig(
        prior="cold", lengthscale=0.5, encoding_variance=1.0, noise=0.1, gain_weight=0.2, tune=False
    )
    network = NetworkConfig(context=8, hidden=8, shortlist=0)  # no ties at the end of a shortlist
    run = untrained_run(tmp_path / "run", paths["ragged"], network=network, trials=TRIALS, surrogate=cold)
    export_policy(run, tmp_path / "policy")
    device = Device(run)
    # Sixteen factors and their inverses in float32 are not as exact as the single one of other priors.
    episodes_agree(tmp_path / "policy", device, device.play(), 1e-4)


def episodes_agree(exported: Path, device: Device, played: Played, tolerance: float) -> None:
    """The exported policy in NumPy plays every task as the device did, with Q-values within `tolerance`."""
    judged = 0
    for row in range(len(played.action)):
        episode = device.episode(exported, row, played.metafeatures[row])
        for t in range(TRIALS):
            judgement: Judgement = episode.judge()
            if not played.legal[row, t].any():
                assert judgement.choice == -1
                break
            assert judgement.choice == played.action[row, t]
            legal = set(played.columns[row, t][played.legal[row, t]])
            place = {column: number for number, column in enumerate(played.columns[row, t])}
            same = [(number, place[c]) for number, c in enumerate(judgement.columns) if c in legal]
            assert len(same) == len(legal)
            ours, theirs = np.asarray(same).T
            close(judgement.values[:, ours], played.values[row, t][:, theirs], tolerance)
            episode.observe(int(played.action[row, t]), float(played.objective[row, t]))
            judged += 1
    assert judged > 4 * len(played.action)


@pytest.mark.parametrize(("batch", "candidates"), [(1, 1), (3, 2), (2, 37)])
def test_batches_and_candidates_may_be_any_number(
    made: tuple[Path, Device, Played], batch: int, candidates: int
) -> None:
    exported, _, played = made
    random = np.random.default_rng(0)
    features = random.normal(size=(batch, candidates, played.features.shape[-1])).astype(np.float32)
    start = -random.exponential(size=(batch, candidates)).astype(np.float32)
    context = random.normal(size=(batch, played.context.shape[-1])).astype(np.float32)
    top = random.uniform(size=batch).astype(np.float32)
    metafeatures = random.normal(size=(batch, played.metafeatures.shape[1]))
    carry = first_carry(load_policy(exported).network, metafeatures)
    wanted = Step(exported, "numpy")(carry, context, features, start, top)
    assert wanted[1].shape == (batch, 2, candidates)
    for form in ("onnx", "stablehlo"):
        found = Step(exported, form)(carry, context, features, start, top)
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        jax.tree.map(close, found, wanted)


@pytest.fixture(
    scope="module", params=["made up", "reads metafeatures", pytest.param("trained", marks=pytest.mark.slow)]
)
def played_run(
    request: pytest.FixtureRequest, paths: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Device, Played]:
    """A run on all three collections, with random weights or really trained for a moment."""
    out = tmp_path_factory.mktemp("played") / "run"
    if request.param == "trained":
        learner = {"updates": 2, "learning_rate": 0.05}
        training.train(tiny_config(*paths.values(), folds=(1,), learner=learner), out, silent=True)
    else:
        reads = NetworkConfig(context=8, hidden=8, metafeatures=request.param == "reads metafeatures")
        untrained_run(out, *paths.values(), folds=(1,), network=reads, calm=reads.metafeatures)
    device = Device(out)
    return out, device, device.play()


@pytest.mark.parametrize("name", NAMES)
def test_a_tuner_plays_the_test_tasks_as_the_device_does(
    played_run: tuple[Path, Device, Played], paths: dict[str, str], tmp_path: Path, name: str
) -> None:
    run, device, played = played_run
    export_policy(run, tmp_path / "policy")
    names = device.data.names
    collection = read_collection(paths[name])
    frame = collection.configs.drop(columns="config_id")
    configs = [
        {key: value for key, value in row.items() if value is not None and value == value}
        for row in frame.astype(object).where(frame.notna(), None).to_dict("records")
    ]
    known = set(np.asarray(device.fold.known[device.fold.usable]).tolist())
    tested = [r for r, (table, _) in enumerate(names.tasks) if table == name and r not in known]
    table = next(table for table in names.tables if table.collection == name)
    assert tested
    for row in tested:
        offered = np.flatnonzero(np.asarray(device.data.bank.legal[row]))
        tuner = Tuner(
            collection.space,
            candidates=[configs[column] for column in offered],
            direction="maximize",
            trials=device.config.env.trials,
            policy=tmp_path / "policy",
            metafeatures=metafeatures_of(table, names.tasks[row][1]),
        )
        for action, objective in zip(played.action[row], played.objective[row], strict=True):
            config = tuner.ask()
            assert config == configs[action]
            tuner.tell(config, float(objective))


def test_some_seeds_make_an_ensemble_of_their_own(paths: dict[str, str], tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", paths["grid"], seeds=(3, 5, 8), folds=(0, 2))
    export_policy(run, tmp_path / "policy", fold=2, seeds=(8, 3))
    device = Device(run, place=1, seeds=(0, 2))
    played = device.play()
    policy = load_policy(tmp_path / "policy")
    assert policy.network.members == 2
    assert policy.description["training"]["seeds"] == [3, 8]
    for row in range(len(played.action)):
        episode = device.episode(tmp_path / "policy", row, played.metafeatures[row])
        for action, objective in zip(played.action[row], played.objective[row], strict=True):
            assert episode.judge().choice == action
            episode.observe(int(action), float(objective))
