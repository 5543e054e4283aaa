"""Packs that are damaged or made to mislead are refused with one line; writing leaves a whole pack or none;
reading leaves no pages behind."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.sealing import MANIFEST, seal
from hyprl_jax.streams import Pack, PackWriter, pack_collection
from hyprl_jax.streams.files import DESCRIBED, LARGE
from hyprl_jax.surfaces import TaskTables
from hyprl_jax.surfaces.reading import CARD, SPACE, TABLES, read_description

TASKS, COLUMNS = 5, 6


def outline(tasks: int = TASKS, columns: int = COLUMNS) -> TaskTables:
    random = np.random.default_rng(0)
    nothing = np.zeros((tasks, 0))
    return TaskTables(
        collection="made", content_hash="", direction="minimize",
        tasks=tuple(f"t{n}" for n in range(tasks)), groups=tuple(f"g{n // 2}" for n in range(tasks)),
        config_ids=np.arange(columns), encodings=random.uniform(size=(columns, 2)).astype(np.float32),
        feature_names=("a", "b"), objective=nothing, cost=nothing,
        metafeatures=random.normal(size=(tasks, 1)), metafeature_names=("m",),
    )  # fmt: skip


def values(tasks: int = TASKS, columns: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(tasks, columns))


def write(path: Path, given: TaskTables | None = None, objective: np.ndarray | None = None) -> Path:
    with PackWriter(path, outline() if given is None else given) as writer:
        writer.append(values() if objective is None else objective)
    return path


def use(path: Path) -> None:
    """All that a run would read."""
    with Pack(path) as pack:
        pack.read(np.arange(len(pack.outline.tasks)))


def reseal(path: Path) -> None:
    """Makes the manifest and the checksums agree with files that were changed."""
    header = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).unlink()
    large = [np.load(path / f"{name}.npy") for name in LARGE]
    sums = np.zeros(len(large[0]), np.uint32)
    for row in range(len(sums)):
        for part in large:
            sums[row] = zlib.crc32(np.ascontiguousarray(part[row]).tobytes(), int(sums[row]))
    np.save(path / "sums.npy", sums)
    seal(path, {key: value for key, value in header.items() if key not in ("files", "sha256")})


def changed(name: str, place: tuple[int, ...], value: float) -> Callable[[Path], None]:
    """One number of a file replaced, everything else made to agree."""

    def change(path: Path) -> None:
        array = np.load(path / name)
        array[place] = value
        np.save(path / name, array)
        reseal(path)

    return change


def truth(path: Path) -> None:
    array = np.load(path / "legal.npy").view(np.uint8)
    array[1, 2] = 7
    np.save(path / "legal.npy", array.view(np.bool_))
    reseal(path)


def named(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        names = json.loads((path / "names.json").read_text())
        (path / "names.json").write_text(json.dumps({**names, **changes}))
        reseal(path)

    return change


def replaced(name: str, array: np.ndarray) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        np.save(path / name, array, allow_pickle=True) if array.dtype.hasobject else np.save(
            path / name, array
        )
        header = json.loads((path / MANIFEST).read_text())
        (path / MANIFEST).unlink()
        seal(path, {key: value for key, value in header.items() if key not in ("files", "sha256")})

    return change


def huge(path: Path) -> None:
    """A header that promises far more than the file has."""
    with open(path / "best.npy", "wb") as file:
        described = {"descr": "<f4", "fortran_order": False, "shape": (2**60,)}
        np.lib.format.write_array_header_1_0(file, described)
    header = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).unlink()
    seal(path, {key: value for key, value in header.items() if key not in ("files", "sha256")})


def manifest(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        header = json.loads((path / MANIFEST).read_text()) | changes
        (path / MANIFEST).unlink()
        seal(path, {key: value for key, value in header.items() if key not in ("files", "sha256")})

    return change


def truncated(name: str) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size // 2)


def linked(path: Path) -> None:
    shutil.move(path / "unit.npy", path.parent / "elsewhere.npy")
    (path / "unit.npy").symlink_to(path.parent / "elsewhere.npy")


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a truncated large file": truncated("objective.npy"),
    "a truncated small file": truncated("encodings.npy"),
    "a missing file": lambda path: (path / "smooth.npy").unlink(),
    "a file too many": lambda path: (path / "more.npy").write_bytes(b"x"),
    "a link": linked,
    "a manifest that is no JSON": lambda path: (path / MANIFEST).write_text("{" * 5000),
    "a manifest of something else": manifest(format="hyprl-jax checkpoint 1"),
    "no direction": manifest(direction=None),
    "another direction": manifest(direction="sideways"),
    "a name twice": named(tasks=["t0"] * TASKS),
    "names that are numbers": named(tasks=list(range(TASKS))),
    "a name too few": named(groups=["g"]),
    "another list of names": named(more=[]),
    "an infinite objective": changed("objective.npy", (1, 2), np.inf),
    "a NaN in a surface": changed("smooth.npy", (1, 2), np.nan),
    "a surface beyond its range": changed("unit.npy", (1, 2), 3.0),
    "a task with another best": changed("best.npy", (1,), 100.0),
    "a task without a range": changed("best.npy", (1,), -100.0),
    "an infinite metafeature": changed("metafeatures.npy", (1, 0), np.inf),
    "an encoding beyond the cube": changed("encodings.npy", (1, 0), 2.0),
    "an encoding that is NaN": changed("encodings.npy", (1, 0), np.nan),
    "a configuration twice": changed("config_ids.npy", (1,), 0),
    "what is no truth value": truth,
    "an array of objects": replaced("metafeatures.npy", np.asarray([{}] * TASKS, dtype=object)),
    "another type": replaced("unit.npy", np.zeros((TASKS, COLUMNS))),
    "another shape": replaced("unit.npy", np.zeros((TASKS, COLUMNS + 1), np.float32)),
    "another order": replaced("unit.npy", np.asfortranarray(np.zeros((TASKS, COLUMNS), np.float32))),
    "a header that lies": huge,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_damaged_and_misleading_packs_are_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pack")
    use(path)
    HOSTILE[what](path)
    with pytest.raises(InputError, match="is damaged") as complaint:
        use(path)
    assert "\n" not in str(complaint.value) and str(path) in str(complaint.value)


def described_otherwise(path: Path) -> None:
    for file in (Path(tiny_runs.write_collections(path.parent / "others")["grid"])).iterdir():
        if (path / DESCRIBED / file.name).exists():
            shutil.copyfile(file, path / DESCRIBED / file.name)


def cut(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / DESCRIBED / name
        file.write_bytes(file.read_bytes()[:-9])

    return change


MISDESCRIBED: dict[str, Callable[[Path], None]] = {
    "another collection": described_otherwise,
    "half a card": cut(CARD),
    "half a space": cut(SPACE),
    "half of the tasks": cut(TABLES[0]),
    "no configurations": lambda path: (path / DESCRIBED / TABLES[1]).unlink(),
}


@pytest.mark.parametrize("what", MISDESCRIBED)
def test_misleading_descriptions_are_refused_in_one_line(what: str, tmp_path: Path) -> None:
    collection = tiny_runs.write_collections(tmp_path / "collections")["ragged"]
    path = pack_collection(collection, tmp_path / "pack")
    with Pack(path) as pack:
        pack.description()
    MISDESCRIBED[what](path)
    reseal(path)
    with Pack(path) as pack, pytest.raises(InputError, match="is damaged") as complaint:
        pack.description()
    assert "\n" not in str(complaint.value) and str(path) in str(complaint.value)


def test_a_description_of_something_else_is_not_packed(tmp_path: Path) -> None:
    other = Path(tiny_runs.write_collections(tmp_path / "others")["grid"])
    with pytest.raises(InputError, match="describes something else"):
        PackWriter(tmp_path / "pack", outline(), described=read_description(other))
    assert [entry.name for entry in tmp_path.iterdir()] == ["others"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "pack")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_altered_byte_goes_unnoticed(data: st.DataObject, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "altered"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    name = data.draw(st.sampled_from(sorted(file.name for file in whole.iterdir())))
    content = bytearray((path / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (path / name).write_bytes(content)
    if name in {f"{large}.npy" for large in LARGE} and place < 128:
        return_is_equal_or_refused(whole, path)
    elif name == MANIFEST and is_same_json(whole / MANIFEST, path / MANIFEST):
        use(path)
    else:
        with pytest.raises(InputError, match="is damaged"):
            use(path)


def return_is_equal_or_refused(whole: Path, path: Path) -> None:
    """A header may differ in what means nothing, such as blanks; then all is as before."""
    rows = np.arange(TASKS)
    try:
        with Pack(path) as pack:
            read = pack.read(rows)
    except InputError as refused:
        assert "is damaged" in str(refused)
        return
    with Pack(whole) as pack:
        for name, before in pack.read(rows).items():
            np.testing.assert_array_equal(read[name], before)


def is_same_json(first: Path, second: Path) -> bool:
    try:
        return bool(json.loads(first.read_bytes()) == json.loads(second.read_bytes()))
    except ValueError:
        return False


def test_a_file_that_shrinks_under_a_reader_is_told_of(tmp_path: Path) -> None:
    path = write(tmp_path / "pack")
    with Pack(path) as pack:
        os.truncate(path / "smooth.npy", 200)
        with pytest.raises(InputError, match="changed its size"):
            pack.read(np.asarray([0]))


@pytest.mark.parametrize("row", [-1, TASKS])
def test_rows_beyond_the_pack_are_refused(row: int, tmp_path: Path) -> None:
    with Pack(write(tmp_path / "pack")) as pack, pytest.raises(InputError, match="tasks 0 to 4"):
        pack.read(np.asarray([0, row]))


# --- writing -----------------------------------------------------------------------------------------------


def one_infinite() -> np.ndarray:
    objective = values()
    objective[1, 1] = np.inf
    return objective


def one_constant() -> np.ndarray:
    objective = values()
    objective[1] = 0.5
    return objective


def one_empty() -> np.ndarray:
    objective = values()
    objective[1] = np.nan
    return objective


@pytest.mark.parametrize(
    ("objective", "complaint"),
    [
        (one_infinite(), "infinite"), (one_constant(), "'t1' has the same value everywhere"),
        (one_empty(), "'t1' has no evaluation"), (values()[:-1], "of which 4 came"),
        (values(TASKS + 1), "more tasks or columns"), (values(columns=COLUMNS + 1), "more tasks or columns"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_leaves_nothing(objective: np.ndarray, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        write(tmp_path / "pack", objective=objective)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tasks": ("t0",) * TASKS}, "different names"), ({"groups": ("",) * TASKS}, "no name"),
        ({"config_ids": np.zeros(COLUMNS, np.int64)}, "different numbers"),
        ({"direction": "up"}, "direction"), ({"encodings": np.zeros((2, 2), np.float32)}, "encodings"),
        ({"metafeatures": np.full((TASKS, 1), np.inf)}, "infinite"),
    ],
)  # fmt: skip
def test_outlines_that_make_no_sense_are_refused(
    changes: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=complaint):
        write(tmp_path / "pack", dataclasses.replace(outline(), **changes))
    assert not list(tmp_path.iterdir())


def test_an_interruption_of_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with PackWriter(tmp_path / "pack", outline()) as writer:
            writer.append(values()[:2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "pack")
    with pytest.raises(InputError, match="exists"):
        write(path)
    use(path)


def test_a_disk_too_full_is_told_before_anything_is_written(tmp_path: Path) -> None:
    tasks = 10**6
    large = dataclasses.replace(
        outline(2, 4 * 10**6),
        tasks=tuple(f"t{n}" for n in range(tasks)),
        groups=("g",) * tasks,
        metafeatures=np.zeros((tasks, 1)),
    )
    with pytest.raises(InputError, match="are free"):
        PackWriter(tmp_path / "pack", large)
    assert not list(tmp_path.iterdir())


# --- memory ------------------------------------------------------------------------------------------------


def resident_of_files() -> int:
    """Bytes of files that are mapped and resident in this process."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_what_was_read_does_not_stay_resident(tmp_path: Path) -> None:
    tasks, columns = 120, 30_000  # 47 MB
    path = write(tmp_path / "pack", outline(tasks, columns), values(tasks, columns))
    with Pack(path) as pack:
        into = pack.read(np.arange(10))
        before = resident_of_files()
        for begin in range(0, tasks, 10):
            pack.read(np.arange(begin, begin + 10), into)
        assert resident_of_files() - before < 4 * 2**20
