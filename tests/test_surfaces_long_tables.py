"""Long CSV and Parquet tables: what is inferred, what is refused and where, whatever the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ConfigSpace
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from surface_examples import sampled_frame, small_collection, small_space

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import Collection, import_collection, load_tables, read_collection, validate_path
from hyprl_jax.surfaces.importers.infer import infer_space
from hyprl_jax.surfaces.repairs import REPAIRS
from hyprl_jax.surfaces.space_json import space_to_json


def results(tasks: int = 4, configs: int = 12, seed: int = 0) -> pd.DataFrame:
    """A long table as people have it: kernels with their own parameters, two seeds, seconds, a family."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "dataset": f"d{task}",
            "family": f"f{task // 2}",
            "rows": 100.0 * (task + 1),
            "kernel": ("rbf", "poly", "linear")[config % 3],
            "C": 2.0 ** (config - 4),
            "gamma": 10.0 ** -(config % 5) if config % 3 == 0 else None,
            "degree": config % 4 + 2 if config % 3 == 1 else None,
            "seed": repeat,
            "accuracy": round(rng.random(), 6),
            "seconds": round(rng.random(), 3),
        }
        for task in range(tasks)
        for config in range(configs)
        for repeat in range(2)
    ]
    return pd.DataFrame(rows)


OPTIONS: dict[str, Any] = {
    "task": "dataset",
    "group": "family",
    "objective": "accuracy",
    "cost": "seconds",
    "repeat": "seed",
    "metafeatures": "rows",
}


def imported(tmp_path: Path, frame: pd.DataFrame, file: str = "results.csv", **options: Any) -> Collection:
    path = tmp_path / file
    if file.endswith(".csv"):
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return read_collection(import_collection("table", path, tmp_path / "out", True, **(OPTIONS | options)))


def test_space_is_inferred_with_its_conditions(tmp_path: Path) -> None:
    collection = imported(tmp_path, results())
    space = collection.space
    assert space["C"] == ConfigSpace.UniformFloatHyperparameter("C", 2.0**-4, 2.0**7, log=True)
    assert (space["degree"].lower, space["degree"].upper, space["degree"].log) == (2, 5, False)
    assert isinstance(space["degree"], ConfigSpace.UniformIntegerHyperparameter)
    assert tuple(space["kernel"].choices) == ("linear", "poly", "rbf")
    conditions = {(c.child.name, c.parent.name, c.value) for c in space.conditions}
    assert conditions == {("gamma", "kernel", "rbf"), ("degree", "kernel", "poly")}
    assert (collection.info.objective.direction, collection.info.name) == ("maximize", "out")


def test_values_arrive_unchanged(tmp_path: Path) -> None:
    frame = results()
    collection = imported(tmp_path, frame)
    tables = load_tables(tmp_path / "out")
    assert tables.groups == ("f0", "f0", "f1", "f1")
    np.testing.assert_array_equal(tables.metafeatures[:, 0], [100, 200, 300, 400])
    means = frame.groupby(["dataset", "C"])[["accuracy", "seconds"]].mean()
    for d, task in enumerate(tables.tasks):
        for c, value in enumerate(collection.configs["C"]):
            assert tables.objective[d, c] == pytest.approx(means.loc[(task, value), "accuracy"])
            assert tables.cost[d, c] == pytest.approx(means.loc[(task, value), "seconds"])


@pytest.mark.parametrize("name", ["a.csv", "b.parquet"])
def test_csv_and_parquet_and_known_space_agree(tmp_path: Path, name: str) -> None:
    first = imported(tmp_path, results())
    space = tmp_path / "space.json"
    space.write_text(space_to_json(first.space))
    assert imported(tmp_path, results(), name, space=space).info.content_hash == first.info.content_hash
    assert imported(tmp_path, results(), name).info.content_hash == first.info.content_hash


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_byte_order_mark_and_spaces(tmp_path: Path, separator: str) -> None:
    expected = imported(tmp_path, results()).info.content_hash
    text = results().to_csv(index=False, sep=separator).replace(separator, f" {separator} ")
    (tmp_path / "other.csv").write_text(text, encoding="utf-8-sig")
    path = import_collection("table", tmp_path / "other.csv", tmp_path / "out", True, **OPTIONS)
    assert read_collection(path).info.content_hash == expected


def test_given_config_ids_fidelity_and_other_objectives(tmp_path: Path) -> None:
    frame = results().rename(columns={"seed": "epoch"})
    frame["number"] = frame.groupby(["kernel", "C"], sort=False).ngroup() * 7 + 5
    frame["loss"] = 1 - frame["accuracy"]
    frame["note"] = "x"
    options = {
        "repeat": None,
        "fidelity": "epoch",
        "config_id": "number",
        "other_objectives": "loss",
        "ignore": "note",
    }
    collection = imported(tmp_path, frame, **options)
    assert set(collection.configs["config_id"]) == set(frame["number"])
    assert collection.info.other_objectives[0].name == "loss"
    assert "note" not in collection.space
    tables = load_tables(tmp_path / "out")
    last = frame[(frame["epoch"] == 1) & (frame["dataset"] == "d0")].set_index("number")["accuracy"]
    np.testing.assert_array_equal(tables.objective[0], last[tables.config_ids])


def changed(row: int, column: str, value: Any) -> pd.DataFrame:
    frame = results().astype({column: "object"})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (changed(7, "accuracy", "0.9x"), "results.csv, row 7: 'accuracy' is '0.9x', which is no number"),
        (changed(7, "accuracy", "nan"), "results.csv, task 'd0', row 7: 'accuracy' is NaN"),
        (changed(7, "accuracy", "inf"), "results.csv, task 'd0', row 7: objective is inf"),
        (changed(7, "accuracy", 1.5), "results.csv, task 'd0', row 7: objective 1.5 is outside"),
        (changed(7, "dataset", ""), "results.csv, row 7: 'dataset' is empty"),
        (changed(7, "family", "f9"), "results.csv, task 'd0', row 7: 'family' is f9, but f0 in an earlier"),
        (changed(7, "rows", 9.0), "results.csv, task 'd0', row 7: 'rows' is 9.0, but 100.0 in an earlier"),
        (changed(7, "seed", 0.5), "results.csv, row 7: 'seed' is 0.5, which is no whole number"),
        (changed(7, "seed", ""), "results.csv, row 7: 'seed' is nan, which is no whole number"),
        (changed(7, "seed", 0), "results.csv, task 'd0', row 7: this evaluation .* earlier row"),
        (changed(7, "seconds", -1.0), "results.csv, task 'd0', row 7: cost is -1.0"),
        (changed(7, "gamma", np.inf), "results.csv, row 7: 'gamma' is infinite"),
        (changed(6, "gamma", None), "results.csv: hyperparameter 'gamma' is empty in row 2, and no other"),
        (results().assign(accuracy=0.5), "task 'd0': constant surface"),
        (results().assign(empty=None), "results.csv: hyperparameter 'empty': the column is empty"),
        (results().assign(text=[f"t{n}x" for n in range(96)] * 1), ""),
        (results()[:0], "there is no row in it"),
    ],
)
def test_bad_cells_are_located(tmp_path: Path, frame: pd.DataFrame, words: str) -> None:
    if not words:
        frame = pd.concat([frame] * 3, ignore_index=True).assign(
            text=[f"t{n}x" for n in range(3 * len(frame))]
        )
        words = "hyperparameter 'text' has 288 different texts"
    with pytest.raises(InputError, match=words) as refused:
        imported(tmp_path, frame, lower=0.0, upper=1.0)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_stray_text_among_numbers_is_a_bad_cell(tmp_path: Path) -> None:
    frame = results(configs=40).astype({"C": "object"})
    frame.loc[11, "C"] = "1e-"
    with pytest.raises(InputError, match="row 11: 'C' is '1e-', but numbers in most other rows"):
        imported(tmp_path, frame)


def test_numbers_and_words_are_a_categorical(tmp_path: Path) -> None:
    frame = results()
    frame["depth"] = frame["C"].map(lambda value: ["None", "10", "20"][int(np.log2(value)) % 3])
    collection = imported(tmp_path, frame)
    assert tuple(collection.space["depth"].choices) == ("10", "20", "None")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "nowhere"}, "no column 'nowhere'; there are dataset, family"),
        ({"objective": "seconds", "cost": None}, "is 'seconds' to be maximized or minimized"),
        ({"direction": "up"}, "neither 'minimize' nor 'maximize'"),
        ({"cost": "accuracy"}, "column 'accuracy' is named for two things"),
        ({"hyperparameters": "C,accuracy"}, "column 'accuracy' is named for two things"),
        ({"lower": 1.0, "upper": 0.0}, "not below"),
        ({"repair": "wishes"}, "no repair rule 'wishes'"),
        ({"name": "a/b"}, "must be 1-100 letters"),
        ({"space": "nowhere.json"}, "nowhere.json: cannot be read"),
        ({"ignore": "kernel,C,gamma,degree"}, "no column is left for the hyperparameters"),
        ({"group": None, "metafeatures": "family"}, "'family' is 'f0', which is no number"),
        ({"config_id": "C"}, "no whole number|other hyperparameters"),
        ({"colour": "red"}, "no option 'colour'"),
    ],
)
def test_mistaken_options(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        imported(tmp_path, results(), **options)
    assert not (tmp_path / "out").exists()


def test_known_space_is_enforced(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    space = infer_space(results()[["kernel", "C", "gamma", "degree"]])
    path.write_text(space_to_json(space))
    with pytest.raises(InputError, match=r"row 9: hyperparameter 'C': 4096.0 is not .*illegal-value"):
        imported(tmp_path, changed(9, "C", 4096.0), space=path)
    with pytest.raises(
        InputError, match=r"row 9: hyperparameter 'kernel': sigmoid is not one of linear, poly, rbf"
    ):
        imported(tmp_path, changed(9, "kernel", "sigmoid"), space=path)
    with pytest.raises(InputError, match="'extra' is not in the space"):
        imported(tmp_path, results().assign(extra=1), space=path)
    with pytest.raises(InputError, match="'gamma' is not in the table"):
        imported(tmp_path, results().drop(columns="gamma"), space=path)


def test_values_of_inactive_hyperparameters(tmp_path: Path) -> None:
    """Many programs write a default where a hyperparameter is inactive: refused, or blanked by a rule."""
    path = tmp_path / "space.json"
    path.write_text(space_to_json(infer_space(results()[["kernel", "C", "gamma", "degree"]])))
    expected = imported(tmp_path, results(), space=path)
    filled = results().fillna({"gamma": 0.01, "degree": 3})
    with pytest.raises(InputError, match="row 0: hyperparameter 'degree': 3 is set though it is inactive"):
        imported(tmp_path, filled, space=path)
    mended = imported(tmp_path, filled, space=path, repair="inactive-value-becomes-null")
    assert mended.info.content_hash == expected.info.content_hash
    assert {repair["rule"] for repair in mended.info.repairs} == {"inactive-value-becomes-null"}


def test_choices_of_other_types(tmp_path: Path) -> None:
    """Truth values and numbers among the choices of a known space are found in the text of a CSV."""
    configs = sampled_frame(small_space(), 20)
    frame = configs.assign(task="t", objective=np.linspace(0, 1, len(configs)))
    frame["bias"] = frame["bias"].map({True: "True", False: "False"})
    (tmp_path / "space.json").write_text(space_to_json(small_space()))
    options = dict.fromkeys(OPTIONS) | {"task": "task", "objective": "objective", "metafeatures": ()}
    collection = imported(tmp_path, frame, space=tmp_path / "space.json", direction="minimize", **options)
    pd.testing.assert_frame_equal(
        collection.configs.drop(columns="config_id")[list(configs.columns)], configs.reset_index(drop=True)
    )


def test_repairs_name_rows_of_the_file(tmp_path: Path) -> None:
    frame = results()
    frame.loc[[3, 8], "accuracy"] = [np.inf, 7.0]
    frame.loc[20] = frame.loc[19]
    collection = imported(tmp_path, frame, lower=0.0, upper=1.0, repair="all")
    places = [(repair["rule"], repair["file"], repair["row"]) for repair in collection.info.repairs]
    assert places == [
        ("infinite-becomes-missing", "results.csv", 3),
        ("out-of-bounds-becomes-missing", "results.csv", 8),
        ("duplicate-keeps-first", "results.csv", 20),
    ]
    assert len(collection.evaluations) == len(frame) - 1
    assert validate_path(tmp_path / "out") == []


def test_nan_in_parquet_is_told_from_null(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(results(), preserve_index=False)
    values = table.column("accuracy").to_pylist()
    values[5], values[6] = float("nan"), None
    index = table.column_names.index("accuracy")
    table = table.set_column(index, "accuracy", pa.array(values, pa.float64(), from_pandas=False))
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"r.parquet, task 'd0', row 5: 'accuracy' is NaN"):
        import_collection("table", tmp_path / "r.parquet", tmp_path / "out", **OPTIONS)
    path = import_collection("table", tmp_path / "r.parquet", tmp_path / "out", **OPTIONS, repair="all")
    assert read_collection(path).evaluations["objective"].isna().to_numpy().nonzero()[0].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "first line"),
        (b"a\n1\n", "first line"),
        (b"a,a\n1,2\n", "first line"),
        (b"a,,b\n1,2,3\n", "first line"),
        (b"task,objective,x\nt,1\n", "row 0: has 2 cells where the header has 3 names"),
        (b"task,objective,x\nt,1,2\nt,1,2,3\n", "row 1: has 4 cells where the header has 3 names"),
        (b'task,objective,x\nt,1,"2\n', "row 0: 'x' goes on over lines; is a quote left open"),
        (b"task,objective,x\n\xff\xfe,1,2\n", "row 0: is not UTF-8 text"),
        (b"\x00\x01,\x02", "."),
    ],
)
def test_malformed_csv(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        import_collection("table", tmp_path / "bad.csv", tmp_path / "out", direction="minimize")
    assert "\n" not in str(refused.value)


cells = st.sampled_from(
    ["", "1", "2", "0.5", "-1e5", "1e400", "nan", "inf", "x", "None", "é", '"', "True", "0x1", " "]
)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(cells, cells, cells, cells), max_size=12), st.sampled_from(["", "all"]))
def test_any_small_csv_is_imported_or_refused(
    tmp_path: Path, rows: list[tuple[str, ...]], repair: str
) -> None:
    text = "task,objective,x,y\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "any.csv").write_text(text)
    out = tmp_path / "out"
    try:
        import_collection("table", tmp_path / "any.csv", out, True, direction="minimize", repair=repair)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert validate_path(out) == []


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_tables_never_escape(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / data.draw(st.sampled_from(["r.csv", "r.parquet"]))
    results().to_csv(path, index=False) if path.suffix == ".csv" else results().to_parquet(path, index=False)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 6))] = (
            data.draw(st.binary(max_size=6)) or b"\n"
        )
    path.write_bytes(bytes(content))
    try:
        import_collection("table", path, tmp_path / "out", True, **OPTIONS)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert validate_path(tmp_path / "out") == []


@pytest.mark.parametrize("note", [b"{", b"\xff\xfe", b'{"columns": 1'])
def test_what_pandas_noted_may_be_damaged(tmp_path: Path, note: bytes) -> None:
    """The cells are whole, and only they are read."""
    table = pa.Table.from_pandas(results()).replace_schema_metadata({b"pandas": note})
    pq.write_table(table, tmp_path / "r.parquet")
    import_collection("table", tmp_path / "r.parquet", tmp_path / "out", **OPTIONS)
    for file in ("tasks", "configs", "evaluations"):
        path = tmp_path / "out" / f"{file}.parquet"
        pq.write_table(pq.read_table(path).replace_schema_metadata({b"pandas": note}), path)
    assert validate_path(tmp_path / "out") == []


@pytest.mark.parametrize("numbers", [(1e-320, 1.0), (-1.7e308, 1.7e308), (1e-300, 1e308)])
def test_numbers_without_a_range_are_refused(tmp_path: Path, numbers: tuple[float, float]) -> None:
    frame = results()
    frame["C"] = np.resize(np.asarray([*numbers, 0.5 * numbers[1]]), len(frame))
    try:
        import_collection("table", written(tmp_path, frame), tmp_path / "out", **OPTIONS)
    except InputError as error:
        assert "'C'" in str(error) and "\n" not in str(error)
    else:
        assert validate_path(tmp_path / "out") == []


def written(folder: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(folder / "any.csv", index=False)
    return folder / "any.csv"


@given(st.integers(0, 200), st.integers(2, 40))
def test_inferred_spaces_allow_what_they_were_inferred_from(seed: int, number: int) -> None:
    configs = small_collection(2, number, seed).configs.drop(columns=["config_id", "bias"])
    configs["degree"] = configs["degree"].astype("float64")
    space = infer_space(configs.dropna(axis="columns", how="all"))
    assert set(space) == set(configs.dropna(axis="columns", how="all").columns)


def test_the_example_of_the_guide(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (repository / "docs" / "collections.md").read_text(encoding="utf-8")
    example = guide.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/collections.md", "exec"), {})
    assert "gamma | kernel == 'rbf'" in capsys.readouterr().out
    tables = load_tables("mine")
    assert tables.objective.shape == (6, 9)
    assert not np.isnan(tables.objective).any()


def test_the_guide_knows_every_rule(repository: Path) -> None:
    guide = (repository / "docs" / "collections.md").read_text(encoding="utf-8")
    for name, repair in REPAIRS.items():
        assert f"`{name}`" in guide
        for rule in repair.mends:
            assert f"`{rule}`" in guide
