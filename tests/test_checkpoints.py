"""Checkpoints: exact round trips, no recompilation after them, and no damage that goes unnoticed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprl_jax import checkpoints, sealing
from hyprl_jax.checkpoints import CheckpointStore, weights_sha256
from hyprl_jax.errors import InputError
from hyprl_jax.sealing import MANIFEST


def small_state(step: int = 0) -> dict:
    """A state that can be told from that of every other step."""
    return {"weights": jnp.full((4, 3), step, jnp.float32), "count": jnp.int32(step)}


def rich_state() -> dict:
    """Leaves of every kind that a learner may have."""
    params = {"kernel": jax.random.normal(jax.random.key(0), (5, 4)), "bias": jnp.zeros(4)}
    return {
        "params": params,
        "optimizer": optax.adam(1e-3).init(params),
        "key": jax.random.key(7),
        "keys of seeds": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "half": jnp.array([1.5, -2.0], jnp.bfloat16),
        "flags": jnp.array([True, False]),
        "small": jnp.array([3, 250], jnp.uint8),
        "empty": jnp.zeros((0, 3)),
        "not numbers": jnp.array([jnp.nan, jnp.inf, -0.0]),
        "weak": jnp.full((2,), 0.5),
        "weaker": jnp.asarray(3.0),
        "host": np.arange(3, dtype=np.float64),
        "python": {"count": 2**60, "rate": 0.1, "name": "linear", "on": True},
        "none": None,
    }


def raw_bytes(leaf) -> bytes:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(found, expected) -> None:
    """Same structure, kinds, dtypes, weak types and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert type(left) is type(right)
        assert getattr(left, "dtype", None) == getattr(right, "dtype", None)
        assert getattr(left, "weak_type", None) == getattr(right, "weak_type", None)
        assert np.shape(left) == np.shape(right)
        assert raw_bytes(left) == raw_bytes(right)


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, reports) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", report=reports.append)


def test_a_state_of_every_kind_comes_back_bit_for_bit(store, reports, capfd):
    threads = threading.active_count()
    state = rich_state()
    store.save(12, state, {"best": [0.5, float("inf")], "name": "ä"})
    step, found, metadata = store.restore(rich_state())
    assert_same(found, state)
    assert (step, metadata) == (12, {"best": [0.5, float("inf")], "name": "ä"})
    assert store.read_metadata() == (12, metadata)
    assert jax.random.uniform(found["key"]) == jax.random.uniform(state["key"])
    assert reports == []
    assert capfd.readouterr() == ("", "")
    assert threading.active_count() == threads


def test_an_abstract_target_is_enough(store):
    store.save(1, small_state(1) | {"key": jax.random.key(3)})
    target = jax.eval_shape(lambda: small_state() | {"key": jax.random.key(0)})
    assert_same(store.restore(target).state, small_state(1) | {"key": jax.random.key(3)})


def test_a_state_without_arrays_and_an_empty_one(store):
    for state in ({"count": 3}, {}, {"empty": jnp.zeros((2, 0))}):
        store.save(1, state)
        assert_same(store.restore(state).state, state)


@pytest.mark.parametrize("abstract", [False, True])
def test_nothing_is_compiled_again_after_a_restore(store, abstract):
    """Neither traced again (shape, dtype, weak type) nor compiled again (commitment to a device)."""
    chex.clear_trace_counter()
    compilations = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            compilations.append(duration)

    def initial():
        return small_state() | {"key": jax.random.key(0), "weak": jnp.asarray(0.5)}

    @jax.jit
    @chex.assert_max_traces(1)
    def chunk(state):
        key, use = jax.random.split(state["key"])
        return state | {"key": key, "weights": state["weights"] + jax.random.normal(use, (4, 3))}

    expected = chunk(chunk(initial()))
    store.save(1, chunk(initial()))
    store.restore(initial())  # the restoring itself may compile, once
    target = jax.eval_shape(initial) if abstract else initial()
    state = store.restore(target).state
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        found = chunk(state)
        assert compilations == []
        jax.jit(lambda x: x - 17.25)(1.0)
        assert len(compilations) == 1  # so the listener does hear
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert_same(found, expected)


def test_a_restored_state_may_be_donated_and_follows_the_targets_sharding(store):
    store.save(1, small_state(3))
    committed = jax.device_put(small_state(), jax.devices()[0])
    state = store.restore(committed).state
    assert all(leaf.committed for leaf in jax.tree.leaves(state))
    assert not any(leaf.committed for leaf in jax.tree.leaves(store.restore(small_state()).state))
    double = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)
    assert_same(jax.device_get(double(store.restore(small_state()).state)), jax.device_get(small_state(6)))


def test_only_the_newest_are_kept_in_the_order_of_saving(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    for step in (10, 20, 20, 5, 7):
        store.save(step, small_state(step))
    assert store.steps() == [20, 5, 7]
    assert store.restore(small_state()).step == 7
    CheckpointStore(tmp_path, keep=1).save(8, small_state(8))
    assert store.steps() == [8]
    with pytest.raises(InputError, match="keep at least 1"):
        CheckpointStore(tmp_path, keep=0)


def test_a_folder_without_checkpoints_says_so(store):
    with pytest.raises(InputError, match=r"no checkpoint in .*start the run anew"):
        store.restore(small_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": jnp.zeros((4, 5))}, r"\['weights'\].*expected float32\[4, 5\], found float32\[4, 3\]"),
        ({"weights": jnp.zeros((4, 3), jnp.bfloat16)}, r"expected bfloat16\[4, 3\], found float32\[4, 3\]"),
        ({"count": 3}, r"\['count'\].*expected int\[\], found int32\[\]"),
        ({"count": jax.random.key(0)}, r"\['count'\].*expected key<fry>\[\], found int32\[\]"),
        ({"more": jnp.zeros(2)}, r"\['more'\].*expected float32\[2\], found nothing"),
    ],
)
def test_another_architecture_or_dtype_is_refused_by_name(store, change, message):
    store.save(0, small_state())
    store.save(1, small_state())
    with pytest.raises(InputError, match=message):
        store.restore(small_state() | change)
    with pytest.raises(InputError, match=r"\['count'\].*expected nothing, found int32\[\]"):
        store.restore({"weights": jnp.zeros((4, 3))})


def test_what_cannot_be_saved_is_refused_before_anything_is_written(store):
    for leaf in (object(), np.array(["text"]), np.array([None]), np.zeros(2, ">f4"), np.zeros(2, "f4,f4")):
        with pytest.raises(TypeError, match=r"cannot save \['leaf'\]"):
            store.save(1, {"leaf": leaf})
    with pytest.raises(TypeError):
        store.save(1, small_state(), {"array": jnp.zeros(3)})
    with pytest.raises(ValueError, match="negative"):
        store.save(-1, small_state())
    assert not store.folder.exists()


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    """A folder with the checkpoints of steps 1 and 2, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("two")
    store = CheckpointStore(folder)
    for step in (1, 2):
        store.save(step, small_state(step) | {"key": jax.random.key(step)}, {"step": step})
    return folder


def damage(path: Path, way: str, where: float) -> None:
    """Truncates, alters, removes or replaces one file of a checkpoint."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = files[int(where * len(files) * 0.999)]
    content = bytearray(file.read_bytes())
    place = int(where * 7919) % max(len(content), 1)
    if way == "truncate":
        file.write_bytes(content[:place])
    elif way == "alter" and content:
        content[place] ^= 1 << (place % 8)
        file.write_bytes(content)
    elif way == "add":
        file.with_name("unexpected").write_bytes(b"x")
    elif way == "link":
        target = path.parent / "elsewhere"
        shutil.move(file, target)
        file.symlink_to(target)
    else:
        file.unlink()


ways = st.sampled_from(["truncate", "alter", "remove", "add", "link"])


@settings(max_examples=40)
@given(ways, st.floats(0, 1))
def test_a_damaged_checkpoint_falls_back_to_the_one_before(two_checkpoints, tmp_path_factory, way, where):
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(two_checkpoints, folder)
    newest = folder / "000002_step_2"
    damage(newest, way, where)
    reports: list[str] = []
    target = small_state() | {"key": jax.random.key(0)}
    found = CheckpointStore(folder, report=reports.append).restore(target)
    assert found.step == 1
    assert_same(found.state, small_state(1) | {"key": jax.random.key(1)})
    assert len(reports) == 1
    assert str(newest) in reports[0]
    assert "\n" not in reports[0]


def test_nothing_undamaged_is_an_error_and_the_next_save_cleans_up(two_checkpoints, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(two_checkpoints, folder)
    for path in folder.iterdir():
        (path / MANIFEST).unlink()
    (folder / ".saving-1").mkdir()
    store = CheckpointStore(folder)
    with pytest.raises(InputError, match=r"all checkpoints in .* are damaged"):
        store.read_metadata()
    assert capfd.readouterr().err.count("warning: checkpoint") == 2
    store.save(3, small_state(3))
    assert [path.name for path in folder.iterdir()] == ["000003_step_3"]


def test_undamaged_checkpoints_are_never_pushed_out_by_damaged_ones(two_checkpoints, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(two_checkpoints, folder)
    (folder / "000002_step_2" / MANIFEST).write_text("{")
    store = CheckpointStore(folder)
    store.save(3, small_state(3))
    assert store.steps() == [1, 3]


forgeries = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from(["", "hyprl-jax checkpoint 99", None, 3]),
        "step": st.sampled_from([-1, 3, 2.0, True, "2", None, 10**30]),
        "metadata": st.sampled_from([None, [], "x"]),
        "leaves": st.lists(
            st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    {"path": st.sampled_from(["['count']", "['key']", "['weights']", 5])},
                    optional={
                        "kind": st.sampled_from(["array", "key", "python", "other", None]),
                        "shape": st.sampled_from([[], [4, 3], [-1], [2**40], "3", None, [1.5]]),
                        "dtype": st.sampled_from(["float32", "int32", "key<fry>", "O", None]),
                        "impl": st.sampled_from(["threefry2x32", "rbg", "nonsense", None]),
                        "data_shape": st.sampled_from([[2], [2**40], [4], None]),
                        "value": st.sampled_from([1, None, "x"]),
                    },
                ),
            ),
            max_size=3,
        ),
    },
)


@settings(max_examples=60)
@given(forgeries, st.booleans())
def test_a_forged_manifest_is_never_believed_nor_fatal(two_checkpoints, tmp_path_factory, forgery, merge):
    """Even with its own hash put right, wrong fields lead to the checkpoint before or to one line."""
    folder = tmp_path_factory.mktemp("forged") / "run"
    shutil.copytree(two_checkpoints, folder)
    file = folder / "000002_step_2" / MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    if merge and "leaves" in forgery:
        pairs = zip(manifest["leaves"], forgery["leaves"], strict=False)
        forgery = forgery | {"leaves": [old | (new or {}) for old, new in pairs]}
    manifest |= forgery
    manifest["sha256"] = sealing._hash_of(manifest)
    file.write_text(json.dumps(manifest))
    target = small_state() | {"key": jax.random.key(0)}
    try:
        found = CheckpointStore(folder, report=lambda line: None).restore(target)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        expected = small_state(found.step) | {"key": jax.random.key(found.step)}
        assert_same(found.state, expected)


def test_arrays_that_are_not_what_the_manifest_says_are_not_cast(two_checkpoints, tmp_path, reports):
    """Orbax would turn the float32 on disk into whatever is asked for; the store must notice."""
    folder = tmp_path / "run"
    shutil.copytree(two_checkpoints, folder)
    file = folder / "000002_step_2" / MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    for leaf in manifest["leaves"]:
        if leaf["path"] == "['weights']":
            leaf["dtype"] = "float16"
    file.write_text(json.dumps(manifest | {"sha256": sealing._hash_of(manifest)}))
    store = CheckpointStore(folder, report=reports.append)
    with pytest.raises(InputError, match=r"expected float16.*found float32"):  # from the checkpoint of step 1
        store.restore(small_state() | {"key": jax.random.key(0), "weights": jnp.zeros((4, 3), jnp.float16)})
    assert "leaf_00002 is float32[4, 3], not float16[4, 3]" in reports[0]


def assert_untouched(store: CheckpointStore, step: int) -> None:
    """The checkpoint of that step is the newest, undamaged, and nothing half-written lies beside it."""
    assert store.restore(small_state()).step == step
    assert not list(store.folder.glob(".saving-*"))


def test_a_file_size_limit_leaves_the_checkpoint_before(store, capfd):
    store.save(1, small_state(1))
    big = {"big": np.random.default_rng(0).normal(size=100_000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(
            InputError, match=r"cannot write the checkpoint of step 2 .*File too large.*step 1 is"
        ):
            store.save(2, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_untouched(store, 1)
    assert capfd.readouterr() == ("", "")
    assert store.save(2, big).name == "000002_step_2"


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs more rights than this user has")
    try:
        store = CheckpointStore(tmp_path / "checkpoints")
        store.save(1, small_state(1))
        with pytest.raises(InputError, match=r"No space left on device.*step 1 is untouched"):
            store.save(2, {"big": np.random.default_rng(0).normal(size=200_000)})
        assert_untouched(store, 1)
        store.save(3, small_state(3))
        assert store.steps() == [1, 3]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interruption_just_before_the_end_leaves_the_checkpoint_before(store, monkeypatch, error):
    store.save(1, small_state(1))

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "seal", fail)
        with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt):
            store.save(2, small_state(2))
    assert_untouched(store, 1)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the checkpoint of step 1 .*no earlier one"):
        CheckpointStore(tmp_path / "file" / "checkpoints").save(1, small_state())


@pytest.mark.parametrize("rounds", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_newest_acknowledged_checkpoint(tmp_path, rounds):
    script = Path(__file__).with_name("kill_while_saving.py")
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent)}
    seed = str(np.random.default_rng().integers(2**31))
    command = [sys.executable, str(script), str(tmp_path), str(rounds), seed]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("acknowledged ")
    store = CheckpointStore(tmp_path)
    target = {"weights": np.zeros((200, 50), np.float32), "steps": np.zeros(300, np.int64)}
    assert store.restore(target).step >= int(done.stdout.split()[1])


def test_weights_hash_depends_on_every_bit_and_on_nothing_else():
    params = {"b": jnp.arange(3.0), "a": {"kernel": jnp.ones((2, 3))}}
    same = {"a": {"kernel": np.ones((2, 3), np.float32, order="F")}, "b": np.arange(3, dtype=np.float32)}
    assert weights_sha256(params) == weights_sha256(same)
    assert len(weights_sha256(params)) == 64
    others = [
        params | {"b": jnp.arange(3.0).at[2].add(2e-7)},
        params | {"b": jnp.arange(3)},
        params | {"b": jnp.arange(3.0)[None]},
        {"c": params["b"], "a": params["a"]},
        {"b": params["b"]},
        params | {"b": jnp.array([-0.0, 1.0, 2.0])},
    ]
    hashes = {weights_sha256(tree) for tree in [params, *others]}
    assert len(hashes) == len(others) + 1


SHARDED = """
import sys, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from hyprl_jax.checkpoints import CheckpointStore, weights_sha256
mesh = jax.make_mesh((4,), ("seeds",), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("seeds"))
keys = jax.random.split(jax.random.key(0), 8)
state = jax.device_put({"w": jnp.arange(8.0).reshape(8, 1), "key": keys}, split)
CheckpointStore(sys.argv[1]).save(1, state)
abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split), state)
for target in (state, abstract):
    found = CheckpointStore(sys.argv[1]).restore(target).state
    assert all(leaf.sharding == split and leaf.committed for leaf in jax.tree.leaves(found))
    assert weights_sha256(found) == weights_sha256(state)
print(weights_sha256(state))
"""


def test_a_state_spread_over_devices_comes_back_where_it_was(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    command = [sys.executable, "-W", "error", "-c", SHARDED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # On one device the same state has the same hash, and the checkpoint can be read.
    state = {"w": jnp.arange(8.0).reshape(8, 1), "key": jax.random.split(jax.random.key(0), 8)}
    assert weights_sha256(CheckpointStore(tmp_path).restore(state).state) == done.stdout.strip()
    assert weights_sha256(state) == done.stdout.strip()
