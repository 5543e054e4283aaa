"""Importers: the original files of two public sources, small and real, and archives that are not to be
trusted.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import (
    SOURCES,
    import_collection,
    importers,
    load_tables,
    make_split,
    number_of_folds,
    read_collection,
    validate_path,
)
from hyprl_jax.surfaces.importers import archive

METAFEATURES = " ".join(f"0.{number}" for number in range(1, 17))


def nnmeta_lines(responses: list[str]) -> list[str]:
    """Rows of a nnMeta file: dropout and the last column run through their values, the rest stays."""
    grid = [(dropout, neurons) for dropout in ("0", "0.2", "0.4") for neurons in ("0.25", "0.5", "1")]
    lines = []
    for response, (dropout, neurons) in zip(responses, grid, strict=True):
        fields = [response, "1 0 0 1", dropout, "0 1 0.001 0 1 0 0.4", neurons, METAFEATURES]
        lines.append(" ".join(field for field in fields if field))
    return lines


def nnmeta_files() -> dict[str, list[str]]:
    return {
        "A1A": nnmeta_lines([".1", "0", "1", ".2", ".25", ".3", ".35", ".4", ".9"]),
        "A9A": nnmeta_lines(["", "0", "1", "1.144", ".25", ".3", ".35", ".4", ".9"]),
        "bupa": nnmeta_lines(["0.5", "0", "1", "1E-3", ".25", ".3", ".35", ".4", ".9"]),
    }


def svm_lines() -> list[str]:
    """RBF with gamma 1 (not written) and 0.1, polynomial of degree 3, linear; C is 2 and 1 (not written)."""
    tail = "6:0.5 27:1.0"
    return [
        f"0.5 0:1.0 3:{1 / 6} {tail}",
        f"0.6 0:1.0 4:-0.25 {tail}",
        f"0.7 1:1.0 3:{1 / 6} 5:{np.log10(3)} {tail}",
        f"0.8 2:1.0 3:{1 / 6} {tail}",
    ]


def written(folder: Path, files: dict[str, list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def packed(path: Path, files: dict[str, list[str]]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, lines in files.items():
            content = ("\n".join(lines) + "\n").encode()
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_nnmeta_from_folder_and_archive(tmp_path: Path) -> None:
    folder = import_collection("hyprl-nnmeta", written(tmp_path / "raw", nnmeta_files()), tmp_path / "one")
    archived = import_collection(
        "hyprl-nnmeta", packed(tmp_path / "raw.tar.xz", nnmeta_files()), tmp_path / "two"
    )
    one, two = read_collection(folder), read_collection(archived)
    assert one.info.content_hash == two.info.content_hash
    assert (one.info.name, two.info.name) == ("one", "two")
    assert list(one.tasks["group"]) == ["adult", "adult", "bupa"]
    assert len(one.configs) == 9
    assert one.configs["dropout"].tolist() == [0, 0, 0, 0.2, 0.2, 0.2, 0.4, 0.4, 0.4]
    assert set(one.configs["choice_2_4"]) == {"column4"}
    tables = load_tables(folder)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(tables.objective[1])), [0, 3])
    assert tables.objective[2, 3] == 1e-3
    np.testing.assert_array_equal(tables.metafeatures[0], [float(text) for text in METAFEATURES.split()])
    assert [(repair["rule"], repair["task"], repair["row"]) for repair in one.info.repairs] == [
        ("empty-response-becomes-missing", "A9A", 0),
        ("out-of-range-response-becomes-missing", "A9A", 3),
    ]


def test_nnmeta_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    files = nnmeta_files()
    before = load_tables(
        import_collection("hyprl-nnmeta", written(tmp_path / "raw", files), tmp_path / "one")
    )
    files["bupa"].reverse()
    after = load_tables(import_collection("hyprl-nnmeta", written(tmp_path / "raw", files), tmp_path / "two"))
    np.testing.assert_array_equal(before.objective, after.objective)


@pytest.mark.parametrize(
    ("row", "line", "words"),
    [
        (2, "0.1 0.2", "bupa, row 2: has 2 columns"),
        (3, nnmeta_lines(["x"] * 9)[3], "bupa, row 3: 'x' is not a number"),
        (4, nnmeta_lines(["nan"] * 9)[4], "bupa, row 4: 'nan' is not a finite number"),
        (4, nnmeta_lines(["inf"] * 9)[4], "bupa, row 4: 'inf' is not a finite number"),
        (5, nnmeta_lines(["0.1"] * 9)[5].replace("1 0 0 1 ", "1 1 0 1 "), "bupa, row 5: columns .* one-hot"),
        (6, nnmeta_lines(["0.1"] * 9)[6].replace("0.16", "0.17"), "bupa, row 6: the metafeatures differ"),
        (7, nnmeta_lines(["0.1"] * 9)[6], "bupa.* row 25: .*earlier row"),
    ],
)
def test_bad_nnmeta_files(tmp_path: Path, row: int, line: str, words: str) -> None:
    files = nnmeta_files()
    files["bupa"][row] = line
    with pytest.raises(InputError, match=words):
        import_collection("hyprl-nnmeta", written(tmp_path / "raw", files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ecml2016_conditions_are_real(tmp_path: Path) -> None:
    files = {"pima": svm_lines(), "diabetes": svm_lines(), "wine": svm_lines()}
    path = import_collection("ecml2016", packed(tmp_path / "svm.tar.xz", files), tmp_path / "svm")
    collection = read_collection(path)
    configs = collection.configs
    assert configs["kernel"].tolist() == ["rbf", "rbf", "poly", "linear"]
    assert configs["C"].tolist() == [2.0, 1.0, 2.0, 2.0]
    np.testing.assert_array_equal(configs["gamma"], [1.0, 0.1, np.nan, np.nan])
    assert configs["degree"].isna().tolist() == [True, True, False, True]
    assert configs["degree"][2] == 3
    assert list(collection.tasks["group"]) == ["pima-diabetes", "pima-diabetes", "wine"]
    np.testing.assert_array_equal(load_tables(path).objective, [[0.5, 0.6, 0.7, 0.8]] * 3)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "not a number followed by"),
        ("0.5 0:1 3", "not a number followed by"),
        ("0.5 a:1", "not a number followed by"),
        ("0.5 0:1.0 0:1.0", "stands twice"),
        ("0.5 0:1.0 28:1.0", "not in 0..27"),
        ("0.5 0:1.0 -1:1.0", "not in 0..27"),
        ("nan 0:1.0", "not finite"),
        ("0.5 0:1.0 1:1.0 6:0.5 27:1.0", "not one-hot"),
        ("0.5 0:0.5 6:0.5 27:1.0", "not one-hot"),
        ("0.5 2:1.0 4:0.5 6:0.5 27:1.0", "gamma is set for the linear kernel"),
        ("0.5 0:1.0 5:0.5 6:0.5 27:1.0", "degree is set for the rbf kernel"),
        ("0.5 0:1.0 3:0.123 6:0.5 27:1.0", "no power of two"),
        ("0.5 1:1.0 5:0.5 6:0.5 27:1.0", "degree no integer"),
        ("0.5 0:1.0 6:0.6 27:1.0", "metafeatures differ"),
    ],
)
def test_bad_svm_files(tmp_path: Path, line: str, words: str) -> None:
    raw = written(tmp_path / "raw", {"wine": svm_lines(), "wdbc": [*svm_lines()[:2], line, *svm_lines()[3:]]})
    with pytest.raises(InputError, match=f"wdbc, row 2: .*{words}"):
        import_collection("ecml2016", raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_registry(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no importer 'nowhere'; available are arlbench, collection"):
        import_collection("nowhere", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="no option 'colour'; it takes name"):
        import_collection("ecml2016", tmp_path, tmp_path / "out", colour="red")
    with pytest.raises(InputError, match="no such file or folder"):
        import_collection("ecml2016", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file in it"):
        import_collection("ecml2016", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        import_collection("ecml2016", tmp_path, tmp_path / "empty")
    assert all(source.summary and source.options for source in SOURCES.values())


def test_interrupted_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = written(tmp_path / "raw", {"wine": svm_lines()})

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_collection("ecml2016", raw, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


@pytest.mark.parametrize(
    "hostile",
    [
        member("../../etc/passwd"),
        member("/etc/passwd"),
        member("link", tarfile.SYMTYPE, target="/etc/passwd"),
        member("hard", tarfile.LNKTYPE, target="wine"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_hostile_archives(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member("wine"))
        tar.addfile(hostile)
    with pytest.raises(InputError, match="which is not a plain file"):
        import_collection("ecml2016", path, tmp_path / "out")


def test_archives_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "bomb.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        tar.addfile(member("zeros", size=10_000_000), io.BytesIO(bytes(10_000_000)))
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match="more than"):
        import_collection("ecml2016", path, tmp_path / "out")
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    with pytest.raises(InputError, match="more than"):
        import_collection(
            "ecml2016", written(tmp_path / "many", {str(n): ["x"] for n in range(3)}), tmp_path / "out"
        )


def test_files_of_the_same_name(tmp_path: Path) -> None:
    written(tmp_path / "raw" / "a", {"wine": svm_lines()})
    written(tmp_path / "raw" / "b", {"wine": svm_lines()})
    with pytest.raises(InputError, match="two files are called 'wine'"):
        import_collection("ecml2016", tmp_path / "raw", tmp_path / "out")


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_sources_never_escape(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed anywhere in an archive or a file: imported or refused, and nothing half-written."""
    source = data.draw(st.sampled_from(["hyprl-nnmeta", "ecml2016"]))
    files = nnmeta_files() if source == "hyprl-nnmeta" else {"wine": svm_lines(), "wdbc": svm_lines()}
    raw = tmp_path / "raw"
    if data.draw(st.booleans()):
        path = packed(tmp_path / "raw.tar.xz", files)
        broken = path
    else:
        path = written(raw, files)
        broken = raw / data.draw(st.sampled_from(sorted(files)))
    content = bytearray(broken.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 4))] = (
            data.draw(st.binary(max_size=4)) or b"\n"
        )
    broken.write_bytes(bytes(content))
    out = tmp_path / "out"
    try:
        import_collection(source, path, out, overwrite=True)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert validate_path(out) == []
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]
    for name in files:
        (raw / name).unlink(missing_ok=True)


# The real files


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("real")
    return {
        "nnmeta": import_collection("hyprl-nnmeta", shared_data / "hyprl-nnmeta.tar.xz", folder / "nnmeta"),
        "svm288": import_collection("ecml2016", shared_data / "ecml2016-svm.tar.xz", folder / "svm288"),
    }


def raw_lines(path: Path) -> dict[str, list[list[str]]]:
    with tarfile.open(path) as tar:
        return {
            Path(info.name).name: [
                line.split() for line in tar.extractfile(info).read().decode().splitlines()
            ]
            for info in tar
            if info.isfile()
        }


def test_real_nnmeta_number_by_number(real: dict[str, Path], shared_data: Path) -> None:
    tables, collection = load_tables(real["nnmeta"]), read_collection(real["nnmeta"])
    assert tables.objective.shape == (50, 2916)
    assert tables.encodings.shape == (2916, 13)
    assert tables.metafeatures.shape == (50, 16)
    for name, rows in raw_lines(shared_data / "hyprl-nnmeta.tar.xz").items():
        numbers = np.array([row if len(row) == 30 else ["nan", *row] for row in rows], dtype=float)
        numbers[numbers[:, 0] > 1, 0] = np.nan
        task = tables.tasks.index(name)
        np.testing.assert_array_equal(tables.objective[task], numbers[:, 0])
        np.testing.assert_array_equal(tables.metafeatures[task], numbers[0, 14:])
        np.testing.assert_array_equal(collection.configs["dropout"], numbers[:, 5])
        np.testing.assert_array_equal(collection.configs["regularization"], numbers[:, 8])
        np.testing.assert_array_equal(collection.configs["choice_9_11"] == "column10", numbers[:, 10] == 1)
    assert {(repair["rule"], repair["task"], repair["row"]) for repair in collection.info.repairs} == {
        ("empty-response-becomes-missing", "housing", 1712),
        ("out-of-range-response-becomes-missing", "slice-localization", 1016),
    }
    assert number_of_folds(tables, "loo") == 46


def test_real_svm_number_by_number(real: dict[str, Path], shared_data: Path) -> None:
    tables, collection = load_tables(real["svm288"]), read_collection(real["svm288"])
    configs = collection.configs
    assert tables.objective.shape == (50, 288)
    assert configs["kernel"].value_counts().to_dict() == {"rbf": 168, "poly": 108, "linear": 12}
    for name, rows in raw_lines(shared_data / "ecml2016-svm.tar.xz").items():
        numbers = np.zeros((288, 28))
        for row, tokens in enumerate(rows):
            for token in tokens[1:]:
                index, value = token.split(":")
                numbers[row, int(index)] = float(value)
        task = tables.tasks.index(name)
        np.testing.assert_array_equal(tables.objective[task], [float(tokens[0]) for tokens in rows])
        np.testing.assert_array_equal(tables.metafeatures[task], numbers[0, 6:])
        np.testing.assert_allclose(np.log2(configs["C"]) / 6, numbers[:, 3], atol=1e-12)
        np.testing.assert_allclose(np.log10(configs["gamma"].fillna(1.0)) / 4, numbers[:, 4], atol=1e-12)
        degree = configs["degree"].astype("float64").fillna(1.0)
        np.testing.assert_allclose(np.log10(degree), numbers[:, 5], atol=1e-12)
    assert number_of_folds(tables, "loo") == 47
    split = make_split(tables, "holdout:15:0", 0)
    assert (len(split.train) + len(split.validation), len(split.test)) == (35, 15)


@pytest.mark.parametrize("name", ["nnmeta", "svm288"])
def test_real_collections_are_valid(real: dict[str, Path], name: str) -> None:
    assert validate_path(real[name]) == []
    copy = importers.import_collection("collection", real[name], real[name].parent / f"{name}_copy")
    assert read_collection(copy).info.content_hash == read_collection(real[name]).info.content_hash
