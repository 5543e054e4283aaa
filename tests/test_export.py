"""What an export writes, what it leaves out, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import pytest
from exported_policies import untrained_run
from safetensors.numpy import load_file
from tiny_runs import grid_collection, ragged_collection, tiny_config, write_collections

from hyprl_jax import bank as banks
from hyprl_jax import policies
from hyprl_jax.__main__ import main
from hyprl_jax.config import NetworkConfig, SurrogateConfig, to_dict
from hyprl_jax.errors import InputError, MissingExtraError
from hyprl_jax.export import export_policy
from hyprl_jax.export.description import assumed
from hyprl_jax.runs import RunFolder
from hyprl_jax.runtime import Space, load_policy
from hyprl_jax.runtime.belief import Beliefs
from hyprl_jax.runtime.network import shapes
from hyprl_jax.surfaces import load_tables, make_split, read_collection, write_collection
from hyprl_jax.training import load_data

FILES = {
    "policy.json",
    "weights.safetensors",
    "prior.safetensors",
    "policy.onnx",
    "policy.stablehlo",
    "MODEL_CARD.md",
}
NETWORK = NetworkConfig(context=4, hidden=4, metafeatures=True)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_collections(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def run(paths: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of two seeds on three collections, with metafeatures."""
    path = tmp_path_factory.mktemp("runs") / "first"
    return untrained_run(path, *paths.values(), network=NETWORK, folds=(0, 2))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "policy"
    export_policy(run, out, fold=2, licence="CC-BY-4.0")
    return out


@pytest.fixture(scope="module")
def facts(exported: Path) -> dict[str, Any]:
    found = json.loads((exported / "policy.json").read_text())
    assert isinstance(found, dict)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- what is written


def test_the_weights_are_those_of_the_run_under_the_names_of_the_runtime(run: Path, exported: Path) -> None:
    policy, trained = load_policy(exported), policies.load_policy(run)
    found = load_file(exported / "weights.safetensors")
    wanted = shapes(policy.network.architecture, 14, 13, trained.metafeatures)
    assert {name: array.shape for name, array in found.items()} == {n: (2, *s) for n, s in wanted.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained.params):
        np.testing.assert_array_equal(found["/".join(key.key for key in path)], leaf[1])


def test_numbers_are_those_of_the_fold_without_the_padding(run: Path, exported: Path) -> None:
    policy, trained = load_policy(exported), policies.load_policy(run)
    assert set(policy.numbers) == {"grid", "ragged", "conditional"}
    for row, name in enumerate(trained.collections):
        beliefs, width = policy.numbers[name], len(Space.from_dict(policy.spaces[name]).feature_names)
        assert isinstance(beliefs.lengthscale, tuple) and len(beliefs.lengthscale) == width
        np.testing.assert_allclose(beliefs.lengthscale, trained.numbers.lengthscale[1, 0, row, :width])
        for field in ("encoding_variance", "learned_variance", "noise", "gain_weight", "similarity_width"):
            assert getattr(beliefs, field) == getattr(trained.numbers, field)[1, 0, row]
        assert beliefs.similarity_floor == min(trained.numbers.similarity_floor[1, 0, row], 1.0)
        assert beliefs.freedom == trained.config.surrogate.freedom
        assert beliefs.additive == trained.config.surrogate.additive
        assert beliefs.mean_variance == trained.config.surrogate.mean_variance
        assert beliefs.guard_share == trained.config.surrogate.guard_share > 0
        assert beliefs.guard_variance == trained.config.surrogate.guard_variance
        assert beliefs.denoise == trained.numbers.denoise[1, 0, row]


def test_an_unknown_space_is_given_geometric_means() -> None:
    one = Beliefs(
        "learned", 0.1, 1.0, (1.0, 4.0), 0.01, 8.0, 32.0, 0.5, 4.0, 0.1, 0.2, 0.5, 0.0, 0.3, 0.06, 1.0
    )
    other = Beliefs("learned", 0.4, 4.0, (8.0,), 0.0001, 8.0, 32.0, 0.0, 4.0, 0.4, 0.8, 0.5, 0.0, 0.3, 0.06)
    found = assumed([one, other])
    np.testing.assert_allclose(found[1:5], [0.2, 2.0, 4.0, 0.001])
    assert found.gain_weight == 0.25, "a geometric mean with 0 would say 0 of the other as well"
    assert (found.prior, found.sharpness_low, found.sharpness_high) == ("learned", 8.0, 32.0)
    np.testing.assert_allclose(found[8:], [4.0, 0.2, 0.4, 0.5, 0.0, 0.3, 0.06, 0.0])
    np.testing.assert_allclose(
        assumed([other])[1:], [0.4, 4.0, 8.0, 1e-4, 8.0, 32.0, 0.0, 4.0, 0.4, 0.8, 0.5, 0.0, 0.3, 0.06, 0.0]
    )


def test_what_took_no_part_in_training_takes_none_afterwards(paths: dict[str, str], tmp_path: Path) -> None:
    given = SurrogateConfig(similarity=False, freedom=0.0, guard=False, guard_share=0.4)
    export_policy(untrained_run(tmp_path / "run", paths["grid"], surrogate=given), tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    for beliefs in (policy.beliefs, policy.numbers["grid"]):
        assert (beliefs.freedom, beliefs.similarity_floor, beliefs.guard_share) == (0.0, 1.0, 0.0)


def test_a_policy_for_cold_starts_carries_no_known_tasks(paths: dict[str, str], tmp_path: Path) -> None:
    cold = SurrogateConfig(prior="constant", lengthscale=0.7)
    run = untrained_run(tmp_path / "run", paths["grid"], paths["conditional"], surrogate=cold)
    made = export_policy(run, tmp_path / "policy")
    assert set(made.files) == FILES - {"prior.safetensors"}
    policy = load_policy(tmp_path / "policy")
    assert (policy.beliefs.prior, policy.beliefs.lengthscale) == ("constant", 0.7)
    assert "carries no known tasks" in (tmp_path / "policy" / "MODEL_CARD.md").read_text()


def test_known_tasks_go_along_and_test_tasks_do_not(paths: dict[str, str], exported: Path) -> None:
    carried = load_policy(exported).prior
    assert set(carried) == set(paths)
    for name, path in paths.items():
        tables, collection = load_tables(path), read_collection(path)
        split = make_split(tables, "kfold3", 2, 0.4)
        known = [tables.tasks.index(task) for task in (*split.train, *split.validation)]
        sign = 1.0 if tables.direction == "maximize" else -1.0
        wanted = sign * tables.objective[known]
        assert len(split.test) and len(carried[name].objective) == len(known)
        np.testing.assert_allclose(carried[name].objective, wanted, rtol=1e-6)
        space = Space.from_configspace(collection.space)
        np.testing.assert_array_equal(space.features(carried[name].codes), tables.encodings)
        found = carried[name].metafeatures
        if tables.metafeatures.size:
            np.testing.assert_array_equal(found, tables.metafeatures[known].astype(np.float32))
            assert load_policy(exported).metafeatures[name].names == tables.metafeature_names
        else:
            assert found is None
        tested = sign * tables.objective[[tables.tasks.index(task) for task in split.test]]
        for surface in tested:
            assert not any(np.allclose(surface, one, equal_nan=True) for one in carried[name].objective)


def test_surfaces_that_single_precision_would_blur_are_kept_in_double(tmp_path: Path) -> None:
    collection = grid_collection()
    collection.evaluations["objective"] = 1e6 + collection.evaluations["objective"] * 1e-3
    path = write_collection(collection, tmp_path / "grid")
    export_policy(untrained_run(tmp_path / "run", str(path)), tmp_path / "policy")
    stored = load_file(tmp_path / "policy" / "prior.safetensors")
    assert stored["grid/objective"].dtype == np.float64
    assert np.ptp(stored["grid/objective"], axis=1).min() > 1e-4


def test_the_description_tells_where_the_policy_comes_from(
    facts: dict[str, Any], paths: dict[str, str]
) -> None:
    training = facts["training"]
    assert (training["fold"], training["seeds"], training["split"]) == (2, [0, 1], "kfold3")
    assert training["env_steps_of_run"] == 96 and training["validation_regret"] is None
    for told, path in zip(training["collections"], paths.values(), strict=True):
        tables = load_tables(path)
        assert told["content_hash"] == tables.content_hash and told["version"] == "1"
        split = make_split(tables, "kfold3", 2, 0.4)
        assert told["train"] == [*split.train] and told["validation"] == [*split.validation]
        named = dict(zip(tables.tasks, tables.groups, strict=True))
        assert {named[task] for task in (*split.train, *split.validation)} <= {*training["groups"]}
        assert not {named[task] for task in split.test} & {*training["groups"]}
        assert facts["features"][told["name"]] == [*tables.feature_names]
        space = Space.from_configspace(read_collection(path).space)
        assert Space.from_dict(facts["spaces"][told["name"]]).to_dict() == space.to_dict()
    assert facts["licence"] == "CC-BY-4.0" and facts["name"] == "policy"
    assert facts["versions"]["jax"] == jax.__version__


def test_metafeatures_can_be_scaled_by_the_description(run: Path, facts: dict[str, Any]) -> None:
    policy = policies.load_policy(run)
    data = load_data(policy.config)
    fold = jax.tree.map(lambda leaf: leaf[1], data.folds)
    wanted = np.asarray(banks.standardised_metafeatures(data.bank, fold))
    assert facts["inputs"]["metafeatures"] == wanted.shape[1] == 3
    for row, (name, task) in enumerate(data.names.tasks):
        table = next(table for table in data.names.tables if table.collection == name)
        scale = facts["metafeatures"]["collections"][name]
        values = table.metafeatures[table.tasks.index(task)]
        scaled = np.clip((values - scale["mean"]) / np.asarray(scale["deviation"]), -3, 3)
        found = np.zeros(3)
        found[scale["offset"] : scale["offset"] + len(values)] = scaled
        np.testing.assert_allclose(found, wanted[row], atol=1e-5)


def test_metafeatures_are_named_where_something_reads_them(paths: dict[str, str], tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", paths["grid"], paths["ragged"])
    export_policy(run, tmp_path / "whole")
    found = load_policy(tmp_path / "whole").metafeatures
    assert set(found) == {"grid"} and found["grid"].names == ("m0", "m1") and found["grid"].offset is None
    export_policy(run, tmp_path / "bare", prior=False)
    assert json.loads((tmp_path / "bare" / "policy.json").read_text())["metafeatures"] is None
    assert load_policy(tmp_path / "bare").metafeatures == {}


def test_the_card_tells_what_a_user_must_know(exported: Path, facts: dict[str, Any]) -> None:
    card = (exported / "MODEL_CARD.md").read_text()
    for one in facts["training"]["collections"]:
        assert one["content_hash"] in card and f"| {one['name']} |" in card
    assert "CC-BY-4.0" in card and "Tuner(" in card
    assert str(exported.parent) not in card
    code = card.partition("```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(exported))
    compile(code, "card", "exec")
    names: dict[str, Any] = {"validation_loss": lambda config: config["learning_rate"]}
    exec(code, names)
    assert len(names["tuner"].results) == facts["trials"]


def test_the_sizes_and_hashes_of_the_files_are_told(exported: Path, facts: dict[str, Any]) -> None:
    import hashlib

    there = contents(exported)
    assert set(there) == FILES
    assert set(facts["files"]) == FILES - {"policy.json", "MODEL_CARD.md"}
    for name, told in facts["files"].items():
        assert told == {
            "bytes": len(there[name]),
            "sha256": hashlib.sha256(there[name]).hexdigest(),
        }


def test_an_export_says_nothing_of_the_machine_it_was_made_on(exported: Path, run: Path) -> None:
    here = (str(run.parent).encode(), str(Path(__file__).parent.parent).encode())
    for content in contents(exported).values():
        assert not any(path in content for path in here)


def test_the_same_run_is_exported_to_the_same_bytes(run: Path, exported: Path, tmp_path: Path) -> None:
    export_policy(run, tmp_path / "policy", fold=2, licence="CC-BY-4.0")
    assert contents(tmp_path / "policy") == contents(exported)


def test_the_onnx_graph_describes_itself(exported: Path) -> None:
    model = onnx.load(exported / "policy.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes_of = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes_of == {
        "carry": ["batch", 2, 4],
        "context": ["batch", 14],
        "features": ["batch", "candidates", 13],
        "start": ["batch", "candidates"],
        "top": ["batch"],
        "next_carry": ["batch", 2, 4],
        "q_values": ["batch", 2, "candidates"],
        "scores": ["batch", "candidates"],
    }
    assert {item.key: item.value for item in model.metadata_props}["licence"] == "CC-BY-4.0"


def test_an_exported_policy_needs_neither_jax_nor_its_run(exported: Path) -> None:
    code = (
        "import sys\n"
        "from hyprl_jax.runtime import Float, Space, Tuner\n"
        "tuner = Tuner(Space([Float('x', 0.0, 1.0)]), policy=sys.argv[1], trials=4)\n"
        "for _ in range(4):\n"
        "    config = tuner.ask()\n"
        "    tuner.tell(config, (config['x'] - 0.3) ** 2)\n"
        "print(len(tuner.results), sorted({'jax', 'flax', 'onnx', 'pandas'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True)
    assert done.stdout == "4 []\n", done.stderr


def test_the_examples_of_the_guide_run(
    paths: dict[str, str],
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export_policy(untrained_run(tmp_path / "run", paths["grid"]), tmp_path / "policies" / "first")
    monkeypatch.chdir(tmp_path)
    guide = (repository / "docs" / "export.md").read_text()
    blocks = [part.partition("```")[0] for part in guide.split("```python\n")[1:]]
    names: dict[str, Any] = {}
    outputs = []
    for block in blocks:
        exec(block, names)
        outputs.append([np.asarray(names[name]) for name in ("q_values", "scores") if name in names])
    assert len(names["tuner"].results) == 25 and len(blocks) == 3
    assert outputs[1][0].shape == (1, 2, 8)
    assert capsys.readouterr().out.count("\n") == 2


# ---- what is refused


def test_a_run_of_several_folds_wants_one_to_be_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folds 0, 2: .*--fold"):
        export_policy(run, tmp_path / "policy")
    with pytest.raises(InputError, match=r"no fold 1: it has 0, 2"):
        export_policy(run, tmp_path / "policy", fold=1)
    for seeds, words in (((7,), "no seed 7"), ((), "at least one"), ((1, 1), "once")):
        with pytest.raises(InputError, match=words):
            export_policy(run, tmp_path / "policy", fold=0, seeds=seeds)
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_is_left_behind(run: Path, tmp_path: Path) -> None:
    full, file, link, empty = (tmp_path / name for name in ("full", "file", "link", "empty"))
    full.mkdir()
    (full / "kept").write_text("kept")
    file.write_text("kept")
    link.symlink_to(full)
    for out in (full, file, link):
        with pytest.raises(InputError, match="name"):
            export_policy(run, out, fold=0)
    assert contents(full) == {"kept": b"kept"} and file.read_text() == "kept"
    empty.mkdir()
    made = export_policy(run, empty, fold=0, seeds=(1,), prior=False)
    assert set(contents(empty)) == FILES - {"prior.safetensors"} == set(made.files)
    assert (made.members, made.seeds, made.name) == (1, (1,), "empty")
    assert load_policy(empty).prior == {}
    assert {path.name for path in tmp_path.iterdir()} == {"full", "file", "link", "empty"}


def test_an_export_that_fails_half_way_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space left"):
        export_policy(run, tmp_path / "deep" / "policy", fold=0)
    assert not any((tmp_path / "deep").iterdir())


@pytest.mark.parametrize("library", ["onnx", "flatbuffers"])
def test_a_missing_library_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library} is not installed.*hyprl-jax\[export\]"):
        export_policy(run, tmp_path / "policy", fold=0)
    assert not any(tmp_path.iterdir())


def test_a_run_without_a_policy_and_a_bad_name_are_refused(
    run: Path, paths: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is not a run"):
        export_policy(tmp_path / "nothing", tmp_path / "policy")
    RunFolder.create(tmp_path / "fresh", to_dict(tiny_config(paths["grid"])))
    with pytest.raises(InputError, match="no policy yet"):
        export_policy(tmp_path / "fresh", tmp_path / "policy")
    for name in ("", "two\nlines", "x" * 201):
        with pytest.raises(InputError, match="name of a policy"):
            export_policy(run, tmp_path / "policy", fold=0, name=name)


# ---- a trained run, by the command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was really trained on one small collection."""
    folder = tmp_path_factory.mktemp("trained")
    collection = write_collection(ragged_collection(), folder / "ragged")
    words = ["--env.trials=4", "--learner.updates=2", "--updates-per-chunk=2", "--learner.warmup=1"]
    words += ["--learner.episodes=8", "--learner.plays=2", "--learner.minibatches=2", "--split=kfold3"]
    words += ["--augment.candidates=0", "--network.context=4", "--network.hidden=4", "--seed=4,7"]
    words += ["--surrogate.no-tune", "--surrogate.no-fit", "--out", str(folder / "run")]
    assert main(["train", "--collections", str(collection), *words]) == 0
    return folder / "run"


def test_the_verb_writes_the_folder_and_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    out = tmp_path / "policy"
    assert main(["export", str(trained), "--out", str(out), "--name", "mine", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["policy"] == str(out) and told["seeds"] == [4, 7] and told["collections"] == ["ragged"]
    assert set(told["files"]) == FILES
    assert all(0 < regret < 1 for regret in told["validation_regret"])
    stored = json.loads((out / "policy.json").read_text())["training"]["validation_regret"]
    assert stored == told["validation_regret"]
    best = [row["best_validation"] for row in RunFolder(trained).read_metrics()]
    assert math.isclose(np.mean(stored), best[-1], rel_tol=1e-5)
    assert f"| 7 | {stored[1]:.4f} |" in (out / "MODEL_CARD.md").read_text()
    assert main(["export", str(trained), "--out", str(tmp_path / "one"), "--seeds", "7", "--no-prior"]) == 0
    said = capsys.readouterr().out
    assert "1 network" in said and "prior.safetensors" not in said
    assert load_policy(tmp_path / "one").network.members == 1
    assert main(["export", str(trained), "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_collections_that_have_changed_are_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    path = Path(json.loads((trained / "config.json").read_text())["collections"][0])
    write_collection(ragged_collection(seed=5), tmp_path / "ragged")
    kept = tmp_path / "kept"
    path.rename(kept)
    try:
        shutil.copytree(tmp_path / "ragged", path)
        with pytest.raises(InputError, match="have changed"):
            export_policy(tmp_path / "run", tmp_path / "policy")
        shutil.rmtree(path)
        with pytest.raises(InputError, match="no collection"):
            export_policy(tmp_path / "run", tmp_path / "policy")
    finally:
        shutil.rmtree(path, ignore_errors=True)
        kept.rename(path)
