"""Importers of benchmark files: arrays in npz files and JSON, small ones made here and the real ones."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from hyprl_jax.__main__ import main
from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import import_collection, load_tables, number_of_folds, read_collection, validate_path
from hyprl_jax.surfaces.importers import arrays as arrays_module
from hyprl_jax.surfaces.importers import hpob as hpob_module
from hyprl_jax.surfaces.importers.diverged import DIVERGED_RULE, diverged_become_worst

Arrays = dict[str, np.ndarray]


def saved(path: Path, arrays: Arrays) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def lcbench_arrays() -> Arrays:
    """Three tasks, four configurations, five epochs; columns in another order than the search space."""
    rng = np.random.default_rng(0)
    names = [
        "max_units",
        "batch_size",
        "learning_rate",
        "momentum",
        "weight_decay",
        "num_layers",
        "max_dropout",
    ]
    rows = [[64 + row, 16 + row, 0.01, 0.5, 0.02, 1 + row, 0.25] for row in range(4)]
    return {
        "X": np.array(rows),
        "X_names": np.array(names),
        "val_accuracy": rng.uniform(20, 95, (3, 4, 5)).astype(np.float32),
        "time": np.cumsum(rng.uniform(1, 2, (3, 4, 5)), axis=2).astype(np.float32),
        "instances": np.array(["3945", "7593", "34539"]),
    }


def taskset_arrays() -> Arrays:
    """Two tasks, five configurations, three points; before training the loss is about 1."""
    names = ["learning_rate", "beta1", "beta2", "epsilon", "l1", "l2", "linear_decay", "exponential_decay"]
    rows = [[10.0**-row, 0.9, 0.999999, 1e-8, 1e-3, 1e-4, 1e-6, 1e-5] for row in range(5)]
    first = [[1.0, 0.9, 0.5], [1.0, 0.8, np.nan], [1.0, np.inf, 1e34], [1.0, 1.5, 1.9], [1.0, 1.7, 2.1]]
    second = [[1.1, 0.9, value] for value in (0.1, 0.2, 0.3, 0.4, 0.5)]
    return {
        "X": np.array(rows),
        "X_names": np.array(names),
        "valid": np.array([first, second], dtype=np.float32),
        "tasks": np.array(["words", "letters"]),
    }


PPO_NAMES = [
    "clip_eps",
    "ent_coef",
    "gae_lambda",
    "learning_rate",
    "max_grad_norm",
    "minibatch_size",
    "normalize_advantage",
    "vf_clip_eps",
    "vf_coef",
]
DQN_NAMES = [
    "buffer_batch_size",
    "buffer_prio_sampling",
    "buffer_size",
    "initial_epsilon",
    "learning_rate",
    "learning_starts",
    "target_epsilon",
    "use_target_network",
    "buffer_alpha",
    "buffer_beta",
    "buffer_epsilon",
    "target_update_interval",
]


def ppo_arrays(batch: int = 64, share: bool = False) -> Arrays:
    """Three configurations, two seeds, two budgets; one of them diverged, one runs away."""
    rows = [[0.1 * row, 0.1, 0.9, 1e-3, 0.5, batch, row % 2, 0.2, 0.5] for row in range(3)]
    returns = np.array([[[1.0, 5.0], [2.0, 6.0]], [[-1.0, np.nan], [0.0, -3.0]], [[0.0, 1.0], [-999.0, 2.0]]])
    return {
        "X": np.array(rows),
        "X_names": np.array(PPO_NAMES),
        "returns": returns.astype(np.float32),
        "budgets": np.array([0.5, 1.0] if share else [500.0, 1000.0]),
    }


def dqn_arrays() -> Arrays:
    none = np.nan
    rows = [
        [16, 1, 2000, 0.6, 1e-3, 10, 0.1, 0, 0.3, 0.4, 1e-5, none],
        [16, 0, 2000, 0.6, 1e-3, 10, 0.1, 1, none, none, none, 50],
    ]
    returns = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    return {
        "X": np.array(rows),
        "X_names": np.array(DQN_NAMES),
        "returns": returns,
        "budgets": np.array([100.0, 200.0]),
    }


def hpob_files() -> dict[str, dict[str, Any]]:
    """Two spaces; in the first a dataset in each file, the last with a repeat and a missing value."""
    train = {"X": [[0.0, 0.5], [0.25, 1.0], [1, 0]], "y": [[0.5], [0.75], [0.25]]}
    validation = {"X": [[0.5, 0.5], [0.0, 0.5]], "y": [[0.1], [0.2]]}
    test = {"X": [[0.125, 0.5], [0.125, 0.5], [0.25, 1.0], [1.0, 1.0]], "y": [0.5, 1.0, 0.25, None]}
    other = {"X": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], "y": [[0.3], [0.4]]}
    return {
        "meta-train-dataset.json": {"5971": {"10": train}, "6766": {"10": other}},
        "meta-validation-dataset.json": {"5971": {"31": validation}},
        "meta-test-dataset.json": {"5971": {"37": test}, "6766": {}},
    }


def written(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def value_of(path: Path, task: str, config: int, **where: float) -> list[float]:
    """Objectives in the rows of a task and a configuration, among those where other columns have a value."""
    rows = read_collection(path).evaluations
    rows = rows[(rows["task"] == task) & (rows["config_id"] == config)]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows["objective"].tolist()


# LCBench


def test_lcbench(tmp_path: Path) -> None:
    given_arrays = lcbench_arrays()
    given_arrays["val_accuracy"][1, 2, 3] = np.nan
    path = import_collection("lcbench", saved(tmp_path / "raw.npz", given_arrays), tmp_path / "out")
    collection = read_collection(path)
    assert (collection.info.name, collection.info.repairs) == ("out", ())
    assert list(collection.tasks["group"]) == ["3945", "7593", "34539"]
    assert collection.configs["batch_size"].tolist() == [16, 17, 18, 19]
    assert collection.configs["max_units"].tolist() == [64, 65, 66, 67]
    assert len(collection.evaluations) == 3 * 4 * 5
    assert value_of(path, "7593", 3, fidelity=2.0) == [float(given_arrays["val_accuracy"][1, 3, 1])]
    assert np.isnan(value_of(path, "7593", 2, fidelity=4.0)).all()
    tables = load_tables(path)
    np.testing.assert_array_equal(tables.objective, given_arrays["val_accuracy"][:, :, -1])
    np.testing.assert_array_equal(tables.cost, given_arrays["time"][:, :, -1])


@pytest.mark.parametrize("source", ["lcbench", "taskset"])
def test_the_last_points_of_curves_only(tmp_path: Path, source: str) -> None:
    arrays = lcbench_arrays() if source == "lcbench" else taskset_arrays()
    raw = saved(tmp_path / "raw.npz", arrays)
    whole = import_collection(source, raw, tmp_path / "whole")
    last = import_collection(source, raw, tmp_path / "last", last_only=True)
    assert len(read_collection(last).evaluations) == load_tables(last).objective.size
    np.testing.assert_array_equal(load_tables(whole).objective, load_tables(last).objective)
    top = read_collection(whole).evaluations["fidelity"].max()
    assert set(read_collection(last).evaluations["fidelity"]) == {top}


# TaskSet


def test_taskset_keeps_diverged_runs_as_the_worst(tmp_path: Path) -> None:
    path = import_collection("taskset", saved(tmp_path / "raw.npz", taskset_arrays()), tmp_path / "out")
    collection = read_collection(path)
    np.testing.assert_allclose(
        load_tables(path).objective, [[0.5, 1.9, 1.9, 1.9, 1.9], [0.1, 0.2, 0.3, 0.4, 0.5]], rtol=1e-6
    )
    np.testing.assert_allclose(value_of(path, "words", 2), [1.0, 1.7, 1.9], rtol=1e-6)
    (record,) = collection.info.repairs
    assert (record["rule"], record["file"], record["task"]) == (DIVERGED_RULE, "raw.npz", "words")
    assert "2 of 15 evaluations are not finite and 2 are above 2, 2 times" in record["detail"]
    np.testing.assert_allclose(collection.configs["one_minus_beta2"], 1e-6, rtol=1e-9)
    assert collection.info.objective.direction == "minimize"


def test_taskset_needs_a_loss_before_training(tmp_path: Path) -> None:
    arrays = taskset_arrays()
    arrays["valid"][0, :, 0] = np.nan
    with pytest.raises(InputError, match=r"raw.npz: array 'valid', task 'words': no positive loss before"):
        import_collection("taskset", saved(tmp_path / "raw.npz", arrays), tmp_path / "out")


@given(
    values=numpy_strategies.arrays(
        np.float64,
        (4, 3),
        elements=st.sampled_from([-1e34, -3.0, -1.0, 0.0, 2.0, 1e34, 1e300, np.nan, np.inf, -np.inf]),
    ),
    direction=st.sampled_from(["minimize", "maximize"]),
    bound=st.sampled_from([None, -2.0, 0.0, 1.0]),
)
def test_diverged_values_against_plain_loops(values: np.ndarray, direction: str, bound: float | None) -> None:
    def diverged(value: float) -> bool:
        beyond = bound is not None and (value > bound if direction == "minimize" else value < bound)
        return not np.isfinite(value) or abs(value) > 1e100 or beyond

    result = diverged_become_worst(values, direction, bound)
    for level in range(3):
        kept = [value for value in values[:, level] if not diverged(value)]
        worst = (max(kept) if direction == "minimize" else min(kept)) if kept else np.nan
        expected = [worst if diverged(value) else value for value in values[:, level]]
        np.testing.assert_array_equal(result.values[:, level], expected)
    assert result.not_finite == sum(not abs(value) < 1e100 for value in values.ravel())
    assert result.not_finite + result.beyond == sum(map(diverged, values.ravel()))
    assert bool(result.record("f", "t", "b")) == (result.not_finite + result.beyond > 0)


# ARLBench


def arlbench_folder(folder: Path) -> Path:
    saved(folder / "ppo_cc_acrobot.npz", ppo_arrays(64))
    again = ppo_arrays(64)
    again["X"][0, 1] += 1e-16  # the same point, written by another program
    again["X"] = again["X"][::-1]
    saved(folder / "ppo_cc_cartpole.npz", again)
    saved(folder / "ppo_minigrid_unlock.npz", ppo_arrays(128))
    saved(folder / "dqn_cc_acrobot.npz", dqn_arrays())
    (folder / "README.md").write_text("not read")
    return folder


def test_arlbench_shares_configurations_between_tasks(tmp_path: Path) -> None:
    folder = arlbench_folder(tmp_path / "raw")
    path = import_collection("arlbench", folder, tmp_path / "out", algorithm="ppo")
    collection, tables = read_collection(path), load_tables(path)
    assert list(collection.tasks["task"]) == ["ppo_cc_acrobot", "ppo_cc_cartpole", "ppo_minigrid_unlock"]
    assert list(collection.tasks["group"]) == ["cc_acrobot", "cc_cartpole", "minigrid_unlock"]
    assert collection.configs["minibatch_size"].tolist() == [64] * 3 + [128] * 3
    missing = np.nan
    # seeds are averaged at the last budget; NaN becomes the worst return there, -3
    np.testing.assert_array_equal(
        tables.objective,
        [
            [5.5, -3.0, 1.5, missing, missing, missing],
            [1.5, -3.0, 5.5, missing, missing, missing],
            [missing, missing, missing, 5.5, -3.0, 1.5],
        ],
    )
    assert value_of(path, "ppo_cc_acrobot", 2, repeat=1) == [-1.0, 2.0]  # -999 ran away: now the worst, -1
    details = {record["task"]: record["detail"] for record in collection.info.repairs}
    assert "1 of 12 evaluations are not finite and 1 are below -60, 10 times" in details["ppo_cc_acrobot"]
    assert collection.info.fidelity is not None and collection.info.fidelity.unit == "environment steps"
    assert set(collection.evaluations["fidelity"]) == {500.0, 1000.0}


def test_arlbench_conditions(tmp_path: Path) -> None:
    path = import_collection(
        "arlbench", saved(tmp_path / "dqn_cc_acrobot.npz", dqn_arrays()), tmp_path / "out"
    )
    collection, tables = read_collection(path), load_tables(path)
    assert collection.configs["buffer_prio_sampling"].tolist() == [True, False]
    np.testing.assert_array_equal(collection.configs["buffer_alpha"], [0.3, np.nan])
    assert collection.configs["target_update_interval"].isna().tolist() == [True, False]
    active = [
        tables.feature_names.index(f"{name}:active") for name in ("buffer_beta", "target_update_interval")
    ]
    np.testing.assert_array_equal(tables.encodings[:, active], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(tables.objective, [[2.0, 6.0]])
    assert collection.info.repairs == ()


def test_arlbench_budgets_in_shares(tmp_path: Path) -> None:
    saved(tmp_path / "raw" / "ppo_cc_acrobot.npz", ppo_arrays())
    saved(tmp_path / "raw" / "ppo_cc_cartpole.npz", ppo_arrays(share=True))
    path = import_collection("arlbench", tmp_path / "raw", tmp_path / "out", last_only=True)
    collection = read_collection(path)
    assert (
        collection.info.fidelity is not None and collection.info.fidelity.unit == "share of the full training"
    )
    assert set(collection.evaluations["fidelity"]) == {1.0}
    (record,) = [record for record in collection.info.repairs if record["rule"] == "budget-becomes-share"]
    assert (record["task"], "1000 steps" in record["detail"]) == ("ppo_cc_acrobot", True)


def test_arlbench_asks_which_algorithm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = arlbench_folder(tmp_path / "raw")
    with pytest.raises(InputError, match="holds several algorithms, dqn, ppo; choose one with the option"):
        import_collection("arlbench", folder, tmp_path / "out")
    with pytest.raises(InputError, match="no algorithm 'sac' in it; there are dqn, ppo"):
        import_collection("arlbench", folder, tmp_path / "out", algorithm="sac")
    saved(folder / "sac_cc_pendulum.npz", dqn_arrays())
    with pytest.raises(InputError, match="search space of 'sac' is not known; there are dqn, ppo"):
        import_collection("arlbench", folder, tmp_path / "out", algorithm="sac")
    words = ["surfaces", "import", "arlbench", str(folder), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "choose one with the option algorithm" in capsys.readouterr().err
    assert main([*words, "--algorithm", "dqn", "--last-only"]) == 0
    assert validate_path(tmp_path / "out") == []
    saved(folder / "results.npz", dqn_arrays())
    with pytest.raises(InputError, match=r"'results.npz' is not called ALGORITHM_ENVIRONMENT.npz"):
        import_collection("arlbench", folder, tmp_path / "other", algorithm="dqn")
    with pytest.raises(InputError, match="0 npz files"):
        import_collection("arlbench", written(tmp_path / "none", {"a": {}}), tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "index", "value", "words"),
    [
        ("X", (0, 1), 0.5, "row 0, hyperparameter 'buffer_prio_sampling': 0.5 is neither 0 nor 1"),
        ("X", (1, 1), np.nan, "row 1, hyperparameter 'buffer_prio_sampling': nan is neither"),
        ("X", (0, 8), np.nan, "row 0, hyperparameter 'buffer_alpha': no value though it is active"),
        ("X", (1, 8), 0.5, "row 1, hyperparameter 'buffer_alpha': 0.5 is set though it is inactive"),
        (
            "X",
            (1, 11),
            9e9,
            "row 1, hyperparameter 'target_update_interval': 9000000000.0 is not of the kind",
        ),
        ("X", (1, 0), 16.5, "row 1, hyperparameter 'buffer_batch_size': 16.5 is not of the kind integer"),
        ("X", (0, 2), -np.inf, "row 0, hyperparameter 'buffer_size': -inf is not"),
        ("budgets", (1,), 100, "array 'budgets': not positive numbers that grow"),
        ("budgets", (0,), 0, "array 'budgets': not positive numbers that grow"),
        ("budgets", (1,), 1e300, "array 'budgets': not positive numbers that grow"),
        ("returns", (), np.nan, "array 'returns': every run diverged"),
        ("X_names", (0,), "colour", "the hyperparameter 'buffer_batch_size' is missing"),
        ("X_names", (0,), "buffer_size", "'buffer_size' stands twice"),
    ],
)
def test_bad_values_in_arlbench_files(
    tmp_path: Path, name: str, index: tuple[int, ...], value: Any, words: str
) -> None:
    arrays = dqn_arrays()
    arrays[name][index] = value
    with pytest.raises(InputError, match=f"^dqn_cc_acrobot.npz: .*{words}"):
        import_collection("arlbench", saved(tmp_path / "dqn_cc_acrobot.npz", arrays), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_configuration_twice_in_a_file(tmp_path: Path) -> None:
    arrays = dqn_arrays()
    arrays["X"][1] = arrays["X"][0]
    with pytest.raises(InputError, match="array 'X', row 1: the same configuration as an earlier row"):
        import_collection("arlbench", saved(tmp_path / "dqn_a.npz", arrays), tmp_path / "out")


# What is wrong with arrays, whatever the source


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time": None}, "the array 'time' is missing; the file holds X, X_names, instances, val_accuracy"),
        ({"time": np.ones((3, 4))}, "array 'time' has 2 axes instead of 3"),
        ({"time": np.ones((3, 4, 6))}, "array 'time' has 6 epochs, but 'val_accuracy' has 5"),
        ({"val_accuracy": np.ones((3, 9, 5))}, "array 'val_accuracy' has 9 configurations, but 'X' has 4"),
        ({"instances": np.array(["1", "2"])}, "array 'instances' has 2 tasks, but 'val_accuracy' has 3"),
        ({"instances": np.array(["1", "2", "2"])}, "array 'instances': '2' stands twice"),
        (
            {"instances": np.array(["1", "2", "3\n"])},
            "array 'instances' holds a text that is empty, too long",
        ),
        ({"instances": np.array(["1", "2", ""])}, "array 'instances' holds a text that is empty"),
        ({"instances": np.array([1, 2, 3])}, "array 'instances' holds int64, not texts"),
        ({"X": np.array([["a"] * 7] * 4)}, "array 'X' holds <U1, not numbers"),
        ({"X": np.ones((4, 7), dtype=complex)}, "array 'X' holds complex128 of shape"),
        ({"X": np.ones((4, 7), dtype=bool)}, "array 'X' holds bool of shape"),
        ({"X": np.array([[{}] * 7] * 4)}, "array 'X' holds object of shape"),
        ({"X": np.ones((0, 7))}, "array 'X' has no configurations"),
        ({"X": np.full((4, 7), np.nan)}, "array 'X', row 0, hyperparameter 'batch_size': no value though"),
        ({"val_accuracy": np.full((3, 4, 5), 101.0)}, r"array 'val_accuracy' holds 101 at \[0, 0, 0\]"),
        ({"time": np.full((3, 4, 5), -1.0)}, r"array 'time' holds -1 at \[0, 0, 0\]"),
        ({"time": np.full((3, 4, 5), np.inf)}, r"array 'time' holds inf at \[0, 0, 0\]"),
    ],
)
def test_bad_arrays(tmp_path: Path, change: dict[str, np.ndarray | None], words: str) -> None:
    arrays = {name: array for name, array in (lcbench_arrays() | change).items() if array is not None}
    with pytest.raises(InputError, match=f"^raw.npz: .*{words}") as caught:
        import_collection("lcbench", saved(tmp_path / "raw.npz", arrays), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x09\x00",
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 7), }", bytes(56)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 7), }", bytes(56)),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }", bytes(8)),
        npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1, 1), }", bytes(8)),
        npy("__import__('os').getcwd()"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 7), }", bytes(57)),
    ],
)
def test_hostile_headers(tmp_path: Path, content: bytes) -> None:
    path = saved(tmp_path / "raw.npz", {key: value for key, value in lcbench_arrays().items() if key != "X"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("X.npy", content)
    with pytest.raises(InputError, match=r"^raw.npz: array 'X' (holds|is damaged)"):
        import_collection("lcbench", path, tmp_path / "out")


def test_files_that_are_no_npz_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.npz").write_bytes(b"no zip at all")
    with pytest.raises(InputError, match=r"^raw.npz: not a readable npz file"):
        import_collection("taskset", tmp_path / "raw.npz", tmp_path / "out")
    with pytest.raises(InputError, match="there is no such file"):
        import_collection("taskset", tmp_path / "nowhere.npz", tmp_path / "out")
    path = saved(tmp_path / "raw.npz", taskset_arrays())
    monkeypatch.setattr(arrays_module, "MAX_ARRAY_BYTES", 200)
    with pytest.raises(InputError, match="array 'X' is larger than the 200 bytes"):
        import_collection("taskset", path, tmp_path / "out")
    monkeypatch.setattr(arrays_module, "MAX_FILE_BYTES", 100)
    with pytest.raises(InputError, match=r"raw.npz: larger than the 100 bytes"):
        import_collection("taskset", path, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(arrays_module, "MAX_MEMBERS", 2)
    with pytest.raises(InputError, match="more than 2 arrays"):
        import_collection("taskset", path, tmp_path / "out")


# HPO-B


def test_hpob_from_the_files_of_the_split(tmp_path: Path) -> None:
    folder = written(tmp_path / "raw", {**hpob_files(), "meta-dataset-descriptors.json": "{"})
    path = import_collection("hpob", folder, tmp_path / "out", space="5971")
    collection, tables = read_collection(path), load_tables(path)
    assert list(collection.tasks["task"]) == ["10", "31", "37"]
    assert collection.tasks["part"].tolist() == [0.0, 1.0, 2.0]
    assert collection.configs[["x0", "x1"]].to_numpy().tolist() == [
        [0.0, 0.5],
        [0.25, 1.0],
        [1.0, 0.0],
        [0.5, 0.5],
        [0.125, 0.5],
        [1.0, 1.0],
    ]
    missing = np.nan
    np.testing.assert_array_equal(
        tables.objective,
        [
            [0.5, 0.75, 0.25, missing, missing, missing],
            [0.2, missing, missing, 0.1, missing, missing],
            [missing, 0.25, missing, missing, 0.75, missing],
        ],
    )
    assert collection.info.objective.direction == "maximize"
    assert value_of(path, "37", 4, repeat=1) == [1.0]
    np.testing.assert_array_equal(tables.encodings, collection.configs[["x0", "x1"]].to_numpy(np.float32))


def test_hpob_from_one_file(tmp_path: Path) -> None:
    content = {"6766": hpob_files()["meta-train-dataset.json"]["6766"]}
    folder = written(tmp_path, {"mine.json": content, "meta-test-dataset.json": content})
    collection = read_collection(import_collection("hpob", folder / "mine.json", tmp_path / "one"))
    assert list(collection.tasks.columns) == ["task", "group"]
    assert "repeat" not in collection.evaluations.columns
    known = import_collection("hpob", folder / "meta-test-dataset.json", tmp_path / "two")
    assert read_collection(known).tasks["part"].tolist() == [2.0]


def test_hpob_asks_which_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "raw", hpob_files())
    words = ["surfaces", "import", "hpob", str(folder), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert (
        "holds several search spaces, 5971, 6766; choose one with the option space" in capsys.readouterr().err
    )
    assert main([*words, "--space", "1"]) == 2
    assert "no search space '1' in it; there are 5971, 6766" in capsys.readouterr().err
    assert main([*words, "--space", "6766"]) == 0
    assert validate_path(tmp_path / "out") == []
    with pytest.raises(InputError, match=r"holds none of the files meta-train-dataset.json"):
        import_collection("hpob", written(tmp_path / "none", {"mine.json": {}}), tmp_path / "other")
    with pytest.raises(InputError, match="no dataset in it"):
        import_collection("hpob", tmp_path / "none" / "mine.json", tmp_path / "other")


def test_hpob_rounding_errors_and_constant_tasks(tmp_path: Path) -> None:
    flat = {"X": [[0.5], [1.0 + 1e-9]], "y": [0.5, 0.5]}
    useful = {"X": [[-1e-12], [1.0]], "y": [0.5, 0.75]}
    folder = written(tmp_path, {"mine.json": {"1": {"a": useful, "b": flat}}})
    with pytest.raises(
        InputError, match=r"task 'b': constant surface.*'uninformative-task-dropped' would mend"
    ):
        import_collection("hpob", folder / "mine.json", tmp_path / "out")
    path = import_collection(
        "hpob", folder / "mine.json", tmp_path / "out", repair="uninformative-task-dropped"
    )
    collection = read_collection(path)
    assert collection.tasks["task"].tolist() == ["a"]
    assert collection.configs["x0"].tolist() == [0.0, 1.0, 0.5]
    assert [record["rule"] for record in collection.info.repairs] == [
        "rounding-error-clipped",
        "rounding-error-clipped",
        "uninformative-task-dropped",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not of this form .the file must be an object, character 0."),
        ("[]", "the file must be an object"),
        ('{"1": []}', "space '1' must be an object"),
        ('{"1": {"a": []}}', "space '1', dataset 'a' must be an object with X and y"),
        ('{"1": {"a": {"X": [[0]]}}}', "must be an object with X and y"),
        (
            '{"1": {"a": {"X": [[0], [1, 1]], "y": [1, 2]}}}',
            "dataset 'a', X is not a list of rows of the same",
        ),
        ('{"1": {"a": {"X": [0, 1], "y": [1, 2]}}}', "X is not a list of rows"),
        ('{"1": {"a": {"X": [["0"], ["1"]], "y": [1, 2]}}}', "X is not a list of rows"),
        ('{"1": {"a": {"X": [[null], [1]], "y": [1, 2]}}}', "X is not a list of rows"),
        ('{"1": {"a": {"X": [[1e999], [1]], "y": [1, 2]}}}', "X, row 0: a number is not finite"),
        ('{"1": {"a": {"X": [], "y": []}}}', "X: no configuration"),
        ('{"1": {"a": {"X": [[]], "y": [1]}}}', "X: no configuration"),
        ('{"1": {"a": {"X": [[0.5], [2]], "y": [1, 2]}}}', "X, row 1: 2 in column 0 is outside"),
        ('{"1": {"a": {"X": [[0], [1]], "y": [1]}}}', "y has 1 values for 2 rows of X"),
        ('{"1": {"a": {"X": [[0], [1]], "y": 7}}}', "y has 0 values for 2 rows of X"),
        ('{"1": {"a": {"X": [[0], [1]], "y": [1, "2"]}}}', "y is not a list of numbers"),
        ('{"1": {"a": {"X": [[0], [1]], "y": [1, [2, 3]]}}}', "y is not a list of numbers"),
        ('{"1": {"a": {"X": [[0], [1]], "y": [1, 1e999]}}}', "y, row 1: a number is not finite"),
        ('{"1": {"a": {"X": [[0], [1]], "y": [1, NaN]}}}', "NaN is not JSON; write null"),
        ('{"1": {"a": {"X": [[0], [1]], "y": [1, 2]}, "a": {}}}', "space '1' holds 'a' twice"),
        ('{"1": {}, "1": {}}', "the file holds '1' twice"),
        ('{"1": {}} 7', "more after the end"),
        ('{"1" {}}', "no colon after '1'"),
        ('{"1": {} "2": {}}', "no comma after '1'"),
        ("{1: {}}", "a name is no text"),
        ('{"\\n": {}}', "a name is no text, empty, too long or not printable"),
        ('{"\\ud800": {}}', "not printable"),
        ('{"1": {"a": ' + "[" * 100_000, "not valid JSON"),
        ('{"1": {"a": {"X": [[' + "1" * 5000 + ']], "y": [1]}}}', "not valid JSON"),
        (
            '{"1": {"a": {"X": [[0], [1]], "y": [1, 2]}, "b": {"X": [[0, 1]], "y": [1]}}}',
            "X has 2 columns, but",
        ),
    ],
)
def test_bad_hpob_files(tmp_path: Path, text: str, words: str) -> None:
    written(tmp_path, {"mine.json": text})
    with pytest.raises(InputError, match=f"^mine.json: .*{words}") as caught:
        import_collection("hpob", tmp_path / "mine.json", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.json"]


def test_hpob_datasets_in_two_files_and_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = hpob_files()["meta-train-dataset.json"]
    folder = written(tmp_path, {"meta-train-dataset.json": content, "meta-test-dataset.json": content})
    with pytest.raises(InputError, match=r"meta-test.*: the dataset '10' of this space is in meta-train-d"):
        import_collection("hpob", folder, tmp_path / "out", space="5971")
    (folder / "meta-test-dataset.json").write_bytes(b'{"1": "\xff"}')
    with pytest.raises(InputError, match=r"meta-test-dataset.json: byte 7 is no text"):
        import_collection("hpob", folder, tmp_path / "out", space="5971")
    monkeypatch.setattr(hpob_module, "MAX_FILE_BYTES", 100)
    with pytest.raises(InputError, match="larger than the 100 bytes"):
        import_collection("hpob", folder, tmp_path / "out", space="5971")


# Damage anywhere


def source_bytes(source: str) -> tuple[str, bytes]:
    """A small file of a source, its arrays uncompressed so that damage reaches what they hold."""
    if source == "hpob":
        return "meta-test-dataset.json", json.dumps(hpob_files()["meta-test-dataset.json"]).encode()
    arrays = {"lcbench": lcbench_arrays, "taskset": taskset_arrays, "arlbench": dqn_arrays}[source]()
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return "dqn_cc_acrobot.npz", stream.getvalue()


def resealed(content: bytes) -> bytes:
    """An archive with the same members and right checksums: damage that zip itself does not notice."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w") as sealed:
        for member in archive.infolist():
            start = content.index(member.filename.encode(), member.header_offset) + len(member.filename)
            extra = int.from_bytes(content[member.header_offset + 28 : member.header_offset + 30], "little")
            sealed.writestr(member.filename, content[start + extra : start + extra + member.file_size])
    return stream.getvalue()


def test_resealing_keeps_what_is_not_damaged() -> None:
    _, content = source_bytes("taskset")
    with np.load(io.BytesIO(resealed(content)), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["valid"], taskset_arrays()["valid"])


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_sources_never_escape(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed anywhere in a file: imported or refused in one line, and nothing half-written."""
    source = data.draw(st.sampled_from(["lcbench", "taskset", "arlbench", "hpob"]))
    name, original = source_bytes(source)
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + 1] = data.draw(st.binary(min_size=1, max_size=1))
    whole = bytes(content)
    if source != "hpob" and data.draw(st.booleans()):
        # unless the directory of the archive itself is damaged
        with contextlib.suppress(zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError):
            whole = resealed(whole)
    folder = tmp_path / "raw"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(whole)
    out = tmp_path / "out"
    try:
        import_collection(source, folder / name, out, overwrite=True)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert validate_path(out) == []
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]


# The real files


def test_real_lcbench_number_by_number(shared_data: Path, tmp_path: Path) -> None:
    path = import_collection("lcbench", shared_data / "lcbench_surrogate.npz", tmp_path / "lcbench")
    tables, collection = load_tables(path), read_collection(path)
    with np.load(shared_data / "lcbench_surrogate.npz", allow_pickle=False) as raw:
        accuracy, seconds, names = raw["val_accuracy"], raw["time"], raw["X_names"].tolist()
        assert tables.tasks == tuple(raw["instances"].tolist())
        for name in names:
            np.testing.assert_array_equal(collection.configs[name], raw["X"][:, names.index(name)])
    assert tables.objective.shape == (34, 1000)
    np.testing.assert_array_equal(tables.objective, accuracy[:, :, 51])
    np.testing.assert_array_equal(tables.cost, seconds[:, :, 51])
    curve = collection.evaluations.query("task == '3945' and config_id == 7").sort_values("fidelity")
    np.testing.assert_array_equal(curve["fidelity"], np.arange(1, 53))
    np.testing.assert_array_equal(curve["objective"], accuracy[tables.tasks.index("3945"), 7])


def test_real_taskset_number_by_number(shared_data: Path, tmp_path: Path) -> None:
    path = import_collection("taskset", shared_data / "taskset12.npz", tmp_path / "taskset")
    tables, collection = load_tables(path), read_collection(path)
    with np.load(shared_data / "taskset12.npz", allow_pickle=False) as raw:
        losses, names, values = raw["valid"].astype(float), raw["X_names"].tolist(), raw["X"]
    np.testing.assert_array_equal(
        1.0 - collection.configs["one_minus_beta1"], values[:, names.index("beta1")]
    )
    np.testing.assert_array_equal(collection.configs["l2"], values[:, names.index("l2")])
    assert tables.objective.shape == (12, 1000)
    for task in range(12):
        final = losses[task, :, 50]
        good = final <= 2 * np.median(losses[task, :, 0])
        np.testing.assert_array_equal(tables.objective[task, good], final[good])
        assert (tables.objective[task, ~good] == final[good].max()).all()
        assert good.mean() > 0.7
    assert {record["rule"] for record in collection.info.repairs} == {DIVERGED_RULE}


@pytest.mark.parametrize(("algorithm", "tasks", "configs"), [("dqn", 12, 768), ("ppo", 11, 512)])
def test_real_arlbench_number_by_number(
    shared_data: Path, tmp_path: Path, algorithm: str, tasks: int, configs: int
) -> None:
    folder = shared_data / "arlbench"
    path = import_collection("arlbench", folder, tmp_path / "out", algorithm=algorithm)
    assert validate_path(path) == []
    tables, collection = load_tables(path), read_collection(path)
    assert tables.objective.shape == (tasks, configs)
    assert number_of_folds(tables, "loo") == tasks
    touched = {record["task"] for record in collection.info.repairs if record["rule"] == DIVERGED_RULE}
    assert (
        touched
        == {
            "dqn": {"dqn_box2d_lunar_lander"},
            "ppo": {"ppo_box2d_bipedal_walker", "ppo_box2d_lunar_lander", "ppo_cc_continuous_mountain_car"},
        }[algorithm]
    )
    for task, objective in zip(tables.tasks, tables.objective, strict=True):
        with np.load(folder / f"{task}.npz", allow_pickle=False) as raw:
            returns, values, names = raw["returns"].astype(float), raw["X"], raw["X_names"].tolist()
        here = collection.configs[~np.isnan(objective)]
        rates = here["learning_rate"].to_numpy()
        rows = [int(np.argmin(np.abs(values[:, names.index("learning_rate")] - rate))) for rate in rates]
        assert sorted(rows) == list(range(256))
        for name in names:
            given_column = values[rows, names.index(name)]
            np.testing.assert_allclose(here[name].astype("float64"), given_column, rtol=1e-11)
        expected, found = returns[rows, :, -1], objective[~np.isnan(objective)]
        if task not in touched:
            np.testing.assert_allclose(found, expected.mean(axis=1), rtol=1e-12, atol=1e-12)
            continue
        bound = -10 * max(abs(np.nanmax(returns)), abs(np.nanmedian(returns)))
        diverged = np.isnan(expected) | (expected < bound)
        mended = np.where(diverged, expected[~diverged].min(), expected)
        np.testing.assert_allclose(found, mended.mean(axis=1), rtol=1e-12)
