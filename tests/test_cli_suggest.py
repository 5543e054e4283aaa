"""`hyprl suggest`: the protocol over real pipes, mistaken lines, resuming, tables, and the documentation."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ConfigSpace
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax.__main__ import main
from hyprl_jax.cli import suggest, suggest_files
from hyprl_jax.cli.suggest import MOST_LINE, Conversation
from hyprl_jax.cli.suggest_files import read_candidates, read_results, read_space_file, read_tasks
from hyprl_jax.errors import InputError
from hyprl_jax.runtime import Categorical, Float, Integer, Ordinal, Space, Tuner, when
from hyprl_jax.surfaces.space_json import space_to_json

SPACE = Space(
    [
        Float("lr", 1e-5, 1e-1, log=True),
        Integer("depth", 2, 12),
        Categorical("optimizer", ["sgd", "adam"]),
        Float("momentum", 0.0, 0.99),
    ],
    {"momentum": when("optimizer", "sgd")},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suggest")
    (path / "space.json").write_text(json.dumps(SPACE.to_dict()))
    return path


def loss(config: dict[str, Any]) -> float:
    return abs(math.log10(config["lr"]) + 3) + config["depth"] / 10


class Talk:
    """A running `hyprl suggest`."""

    def __init__(self, *words: str, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "hyprl_jax", "suggest", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment(),
        )

    def send(self, line: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def request(self, **content: Any) -> dict[str, Any]:
        return self.send(json.dumps(content).encode())

    def end(self) -> tuple[int, str]:
        """The exit code and what stands on standard error."""
        out, err = self.process.communicate(timeout=60)
        assert out == b""
        return self.process.returncode, err.decode()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


@contextmanager
def talking(*words: str, cwd: Path) -> Iterator[Talk]:
    talk = Talk("--space", "space.json", *words, cwd=cwd)
    try:
        yield talk
    finally:
        talk.process.kill()
        talk.process.communicate()


def conversation(**options: Any) -> Conversation:
    return Conversation(Tuner(SPACE, **options), lambda _: None)


def say(talk: Conversation, **content: Any) -> dict[str, Any]:
    return talk.answer(json.dumps(content).encode())


# ---- over real pipes


def test_whole_search_over_pipes(folder: Path) -> None:
    with talking("--trials", "8", cwd=folder) as talk:
        assert talk.request(best=True) == {"best": None}
        values = []
        for number in range(8):
            answer = talk.request(ask=1, id=number)
            assert set(answer) == {"id", "configs", "nothing_left", "seconds"}
            assert answer["id"] == number and answer["nothing_left"] is False and answer["seconds"] >= 0
            (config,) = answer["configs"]
            assert ("momentum" in config) == (config["optimizer"] == "sgd")
            values.append(loss(config))
            told = talk.request(tell={"config": config, "value": values[-1]})
            assert told["ok"] is True and told["best"]["value"] == min(values)
        assert talk.send(b"what?")["error"].startswith("not JSON")
        assert talk.send(b"\xff\xfe")["error"].startswith("not JSON")
        assert talk.send(b'"' + b"x" * (3 * MOST_LINE) + b'"')["error"].startswith("a line has at most")
        best = talk.request(best=True)["best"]
        assert best["value"] == min(values) == loss(best["config"])
        assert len(talk.request(state=True)["state"]["results"]) == 8
        assert talk.request(quit=True, id="bye") == {"id": "bye", "ok": True}
        assert talk.end() == (0, "")


def test_end_of_input_ends_it_and_the_last_line_needs_no_newline(folder: Path) -> None:
    talk = Talk("--space", "space.json", "--json", cwd=folder)
    out, err = talk.process.communicate(b'{"ask": 1}\n\n{"best": true}', timeout=60)
    assert talk.process.returncode == 0 and err == b""
    first, second, third = map(json.loads, out.splitlines())
    assert len(first["configs"]) == 1
    assert "error" in second
    assert third == {"best": None}


def test_killed_search_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    state = str(tmp_path / "search.json")
    reference = conversation(seed=3)
    with talking("--state", state, "--seed", "3", cwd=folder) as talk:
        for _ in range(3):
            (config,) = talk.request(ask=1)["configs"]
            assert say(reference, ask=1)["configs"] == [config]
            told = {"config": config, "value": loss(config)}
            assert talk.request(tell=told) == say(reference, tell=told)
        (out,) = talk.request(ask=1)["configs"]
        assert say(reference, ask=1)["configs"] == [out]
        talk.process.kill()
        talk.process.wait()
    with talking("--state", state, "--seed", "3", cwd=folder) as talk:
        assert talk.request(state=True) == say(reference, state=True)
        assert talk.request(state=True)["state"]["pending"] == [out]
        assert talk.request(ask=2)["configs"] == say(reference, ask=2)["configs"]
        assert talk.request(forget=True) == {"ok": True, "forgotten": 3}
        talk.request(quit=True)
        assert talk.end() == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".search.json.lock", "search.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "search.json"
    with talking("--state", str(state), cwd=folder) as talk:
        (config,) = talk.request(ask=1)["configs"]
        talk.request(tell={"config": config, "value": None})
        talk.process.send_signal(number)
        code, err = talk.end()
    assert code == 130
    assert err == f"stopped by {number.name} after 1 results; the search is kept in {state}\n"
    assert json.loads(state.read_text())["results"] == [[config, None]]


def test_signal_while_answering_waits_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"1\n2\n3\n")
    with os.fdopen(reading, "rb") as stream:
        listener = suggest.Listener(stream)
        seen = []
        for line in listener.lines():
            seen.append(line)
            if len(seen) == 2:
                signal.raise_signal(signal.SIGTERM)
    os.close(writing)
    assert seen == [b"1\n", b"2\n"]
    assert listener.stopped_by == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_reader_that_goes_away_is_no_failure(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "search.json"
    with talking("--state", str(state), cwd=folder) as talk:
        talk.request(ask=1)
        assert talk.process.stdout is not None and talk.process.stdin is not None
        talk.process.stdout.close()
        talk.process.stdin.write(b'{"ask": 1}\n')
        talk.process.stdin.close()
        assert talk.process.wait(timeout=60) == 0
        assert talk.process.stderr is not None
        assert talk.process.stderr.read() == b""
        talk.process.stdout = talk.process.stdin = None
    assert len(json.loads(state.read_text())["pending"]) == 2


def test_closed_input_is_the_end_of_it(folder: Path) -> None:
    command = f"exec '{sys.executable}' -m hyprl_jax suggest --space space.json <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=folder, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_one_process_at_a_time_writes_the_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = str(tmp_path / "search.json")
    monkeypatch.setattr(suggest_files, "_LONGEST_WAIT", 0.0)
    with talking("--state", state, cwd=folder) as talk:
        talk.request(ask=1)
        assert main(["suggest", "--space", str(folder / "space.json"), "--state", state]) == 2
    assert "another process is using it" in capsys.readouterr().err


def test_needs_no_jax(folder: Path) -> None:
    script = (
        "import sys, io; from hyprl_jax.__main__ import main;"
        "sys.stdin = io.TextIOWrapper(io.BytesIO(b'{\"ask\": 1}'));"
        "code = main(['suggest', '--space', 'c.json']);"
        "sys.exit(str({'jax', 'flax', 'optax'} & set(sys.modules) or code or ''))"
    )
    (folder / "c.json").write_text(space_to_json(ConfigSpace.ConfigurationSpace({"x": (0.0, 1.0)})))
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment())
    assert done.stderr.strip() == ""
    assert json.loads(done.stdout)["configs"] == [{"x": 0.5}]


# ---- the protocol


MISTAKEN = [
    "[]",
    "3",
    "{}",
    '{"id": 3}',
    '{"ask": 0}',
    '{"ask": 1001}',
    '{"ask": true}',
    '{"ask": 1.0}',
    '{"ask": 1, "best": true}',
    '{"ask": 1, "id": []}',
    '{"ask": 1, "id": NaN}',
    '{"jump": 1}',
    '{"best": false}',
    '{"best": 1}',
    '{"tell": 3}',
    '{"tell": {"config": {}}}',
    '{"tell": {"config": {}, "value": 1}}',
    '{"tell": {"config": [], "value": 1}}',
    '{"tell": {"config": {"lr": 0.01, "depth": 3, "optimizer": "adam"}, "value": "1"}}',
    '{"tell": {"config": {"lr": 0.01, "depth": 3, "optimizer": "adam"}, "value": true}}',
    '{"tell": {"config": {"lr": 0.01, "depth": 3, "optimizer": "adam"}, "value": 1e400, "more": 1}}',
    '{"tell": {"config": {"lr": 0.01, "depth": 3.5, "optimizer": "adam"}, "value": 1}}',
    '{"tell": {"config": {"lr": 0.01, "depth": 3, "optimizer": "sgd"}, "value": 1}}',
    '{"tell": {"config": {"lr": 0.01, "depth": 3, "optimizer": ["adam"]}, "value": 1}}',
    '{"forget": {"lr": 0.01, "depth": 3, "optimizer": "adam"}}',
    '{"forget": false}',
    '{"tell": {"config": {"lr": 0.01, "depth": 3, "optimizer": "adam"}, "value": 1' + "0" * 400 + "}}",
    '{"tell": {"config": {"lr": 0.01, "depth": 3' + "0" * 400 + ', "optimizer": "adam"}, "value": 1}}',
    '{"ask": 1' + "0" * 5000 + "}",
    "[" * 100_000,
    '{"tell": ' * 100_000,
]


@pytest.mark.parametrize("line", MISTAKEN, ids=lambda line: line[:60])
def test_mistaken_line_changes_nothing(line: str) -> None:
    talk = conversation()
    asked = say(talk, ask=1)["configs"][0]
    before = say(talk, state=True)
    answer = talk.answer(line.encode())
    assert set(answer) - {"id"} == {"error"}
    assert "\n" not in answer["error"] and len(answer["error"]) <= 500
    assert say(talk, state=True) == before
    assert say(talk, tell={"config": asked, "value": 1.0})["ok"] is True


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
REQUESTS = st.dictionaries(
    st.sampled_from(("ask", "tell", "best", "forget", "state", "id", "x")),
    JSON
    | st.fixed_dictionaries({"config": JSON, "value": JSON})
    | st.fixed_dictionaries(
        {
            "config": st.fixed_dictionaries(
                {"lr": JSON | st.just(0.01), "depth": JSON | st.just(3), "optimizer": JSON | st.just("adam")}
            ),
            "value": JSON,
        }
    ),
    max_size=2,
)
LINES = (
    st.binary(max_size=30)
    | st.text(max_size=30).map(str.encode)
    | REQUESTS.map(lambda request: json.dumps(request).encode())
)


@given(st.lists(LINES, max_size=6))
def test_any_lines_are_answered_and_the_search_goes_on(lines: list[bytes]) -> None:
    talk = conversation(pool=8)
    for line in lines:
        before = talk.tuner.state()
        answer = talk.answer(line)
        json.dumps(answer, allow_nan=False)
        if "error" in answer:
            assert talk.tuner.state() == before
    assert len(say(talk, ask=1)["configs"]) == 1


def test_failed_trials_and_directions() -> None:
    talk = conversation(direction="maximize")
    configs = say(talk, ask=4)["configs"]
    assert len({json.dumps(config) for config in configs}) == 4
    for config, value in zip(configs, ("null", "NaN", "-Infinity", "2"), strict=True):
        answer = talk.answer(f'{{"tell": {{"config": {json.dumps(config)}, "value": {value}}}}}'.encode())
        assert answer["ok"] is True
    assert [result.value for result in talk.tuner.results] == [None, None, None, 2.0]
    assert say(talk, best=True) == {"best": {"config": configs[3], "value": 2.0}}
    other = {"lr": 0.01, "depth": 3, "optimizer": "adam"}
    assert say(talk, tell={"config": other, "value": 3})["best"] == {"config": other, "value": 3.0}


@given(st.integers(6, 17))
def test_digits_that_a_language_drops_do_not_matter(digits: int) -> None:
    talk = conversation()
    asked = say(talk, ask=3)["configs"][1]
    rounded = {
        name: float(f"{value:.{digits}g}") if isinstance(value, float) else value
        for name, value in asked.items()
    }
    assert say(talk, tell={"config": rounded, "value": 1.0})["best"]["config"] == asked
    assert len(talk.tuner.pending) == 2


def test_other_configurations_are_not_taken_for_those_asked() -> None:
    space = Space([Float("x", 0, 1), Integer("n", 0, 2**40), Float("o", 0, 1)], optional=["o"])
    talk = Conversation(Tuner(space), lambda _: None)
    asked = {"x": 0.5, "n": 2**30, "o": 0.5}
    talk.tuner.expect(asked)
    for other in ({**asked, "n": 2**30 + 1}, {**asked, "x": 0.50001}, {"x": 0.5, "n": 2**30}):
        assert say(talk, tell={"config": other, "value": 1.0})["ok"] is True
        assert talk.tuner.pending == [asked]
        assert talk.tuner.results[-1].config == other
    assert say(talk, forget={**asked, "x": 0.5000001}) == {"ok": True, "forgotten": 1}


def test_small_space_runs_out_and_forgetting_frees() -> None:
    talk = Conversation(Tuner(Space([Ordinal("n", [1, 2, 3])])), lambda _: None)
    answer = say(talk, ask=5)
    assert sorted(config["n"] for config in answer["configs"]) == [1, 2, 3]
    assert answer["nothing_left"] is True
    assert say(talk, forget={"n": 2}) == {"ok": True, "forgotten": 1}
    assert say(talk, ask=1)["configs"] == [{"n": 2}]


def test_state_is_kept_after_every_change() -> None:
    kept: list[dict[str, Any]] = []
    talk = Conversation(Tuner(SPACE), lambda tuner: kept.append(tuner.state()))
    (config,) = say(talk, ask=1)["configs"]
    say(talk, best=True)
    say(talk, ask=0)
    say(talk, tell={"config": config, "value": 1.0})
    say(talk, forget=True)
    assert [(len(state["pending"]), len(state["results"])) for state in kept] == [(1, 0), (0, 1), (0, 1)]


# ---- resuming with other options


def begin(folder: Path, *words: str) -> int:
    process = subprocess.run(
        [sys.executable, "-m", "hyprl_jax", "suggest", *words],
        input=b'{"ask": 1}\n',
        capture_output=True,
        cwd=folder,
        env=environment(),
    )
    return process.returncode


def test_state_belongs_to_its_options(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, state = folder / "space.json", tmp_path / "search.json"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(Space([Float("x", 0, 1)]).to_dict()))
    assert begin(folder, "--space", str(space), "--state", str(state), "--trials", "5") == 0
    words = ["suggest", "--state", str(state), "--space"]
    for changed, name in (
        ([str(other)], "space"),
        ([str(space), "--seed", "4"], "seed"),
        ([str(space), "--direction", "maximize"], "direction"),
    ):
        assert main([*words, *changed]) == 2
        assert f"another --{name}" in capsys.readouterr().err
    # That more trials are planned than at first is no mistake.
    assert begin(folder, *words[1:], str(space), "--trials", "9") == 0
    assert json.loads(state.read_text())["trials"] == 9
    state.write_text("{")
    assert main([*words, str(space)]) == 2
    assert "not JSON" in capsys.readouterr().err
    assert main(["suggest", "--space", str(space), "--state", str(tmp_path / "no" / "search.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"candidates": ...}, {"seed": "x"}, {"results": [[{"lr": 10**400}, 1]]}, {"pending": 3}]
)
def test_damaged_state_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    state = {key: part for key, part in {**Tuner(SPACE).state(), **change}.items() if part is not ...}
    (tmp_path / "search.json").write_text(json.dumps(state))
    code, _, err = outcome_of(
        capsys, "--space", str(folder / "space.json"), "--state", str(tmp_path / "search.json")
    )
    assert code == 2
    assert err.startswith(f"error: {tmp_path / 'search.json'}: ") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": []},
        {"parameters": [{"name": "x", "kind": "float", "lower": 0, "upper": 10**400}]},
        {"conditions": {"momentum": {"kind": "in", "parent": "", "values": [1]}}},
        {"optional": ["nobody"]},
    ],
)
def test_damaged_space_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "space.json").write_text(json.dumps({**SPACE.to_dict(), **change}))
    with pytest.raises(InputError) as mistake:
        read_space_file(tmp_path / "space.json")
    assert str(mistake.value).startswith(str(tmp_path))


def test_forbidden_stays_forbidden_after_resuming(folder: Path, tmp_path: Path) -> None:
    space = ConfigSpace.ConfigurationSpace({"x": (0.0, 1.0), "kind": ["a", "b", "c"]})
    space.add(ConfigSpace.ForbiddenInClause(space["kind"], ["b", "c"]))
    (tmp_path / "space.json").write_text(space_to_json(space))
    for _ in range(2):
        with talking("--state", "search.json", cwd=tmp_path) as talk:
            for config in talk.request(ask=6)["configs"]:
                assert config["kind"] == "a"
                talk.request(tell={"config": config, "value": config["x"]})
            talk.request(quit=True)
            assert talk.end() == (0, "")
    assert len(json.loads((tmp_path / "search.json").read_text())["results"]) == 12


# ---- once, from a table

CSV = "lr,depth,optimizer,momentum,value\n0.01,4,adam,,0.31\n0.001,4,sgd,0.9,0.42\n0.1,8,adam,,nan\n"
EXPECTED = [
    ({"lr": 0.01, "depth": 4, "optimizer": "adam"}, 0.31),
    ({"lr": 0.001, "depth": 4, "optimizer": "sgd", "momentum": 0.9}, 0.42),
    ({"lr": 0.1, "depth": 8, "optimizer": "adam"}, None),
]


def outcome_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["suggest", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_suggestions_from_a_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.csv").write_text(CSV)
    words = ["--space", str(folder / "space.json"), "--history", str(tmp_path / "results.csv"), "--ask", "3"]
    code, out, err = outcome_of(capsys, *words)
    assert (code, err) == (0, "")
    tuner = Tuner(SPACE)
    for config, value in EXPECTED:
        tuner.tell(config, value)
    configs = tuner.ask_many(3)
    assert [json.loads(line) for line in out.splitlines()] == configs
    code, out, _ = outcome_of(capsys, *words, "--json")
    assert code == 0
    assert json.loads(out) == {
        "configs": configs,
        "nothing_left": False,
        "results": 3,
        "best": {"config": EXPECTED[0][0], "value": 0.31},
    }


def test_first_suggestions_need_no_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome_of(capsys, "--space", str(folder / "space.json"), "--ask", "2", "--seed", "9")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == Tuner(SPACE, seed=9).ask_many(2)


def test_markup_in_choices_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = Space([Categorical("c", ["[bold]:smile:", "é" * 300])])
    (tmp_path / "s.json").write_text(json.dumps(space.to_dict()))
    _, out, _ = outcome_of(capsys, "--space", str(tmp_path / "s.json"), "--ask", "2")
    assert {json.loads(line)["c"] for line in out.splitlines()} == {"[bold]:smile:", "é" * 300}


def test_candidates_alone_make_the_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.csv").write_text("n,kind,on\n1,a,true\n2,b,false\n3,a,TRUE\n")
    (tmp_path / "c.jsonl").write_text('{"n": 1, "kind": "a"}\n\n{"n": 2, "kind": "b"}\n')
    code, out, _ = outcome_of(capsys, "--candidates", str(tmp_path / "c.csv"), "--ask", "5", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["nothing_left"] is True
    assert sorted(found["configs"], key=lambda config: config["n"]) == [
        {"n": 1, "kind": "a", "on": True},
        {"n": 2, "kind": "b", "on": False},
        {"n": 3, "kind": "a", "on": True},
    ]
    _, out, _ = outcome_of(capsys, "--candidates", str(tmp_path / "c.jsonl"), "--ask", "5")
    assert len(out.splitlines()) == 2


def test_earlier_tasks_are_used(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["task,lr,depth,optimizer,momentum,value"]
    lines += [
        f"{task},{10**-p},{d},adam,,{abs(p - 3) + d}" for task in "ab" for p in (1, 2, 3) for d in (2, 9)
    ]
    (tmp_path / "earlier.csv").write_text("\n".join(lines))
    tasks = read_tasks(tmp_path / "earlier.csv", SPACE)
    assert [len(task) for task in tasks] == [6, 6]
    words = ["--space", str(folder / "space.json"), "--ask", "1", "--earlier", str(tmp_path / "earlier.csv")]
    _, out, _ = outcome_of(capsys, *words)
    assert json.loads(out) == Tuner(SPACE, earlier=tasks).ask()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", CSV),
        ("r.csv", "\ufeff" + CSV.replace("\n", "\r\n").replace("adam,,", '"adam",,')),
        ("r.jsonl", "\n".join(json.dumps({**config, "value": value}) for config, value in EXPECTED)),
        ("r.jsonl", "\n".join(json.dumps({"config": config, "value": value}) for config, value in EXPECTED)),
        ("r.json", json.dumps([{**config, "value": value} for config, value in EXPECTED], indent=1)),
    ],
)
def test_tables_of_every_form(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_results(tmp_path / name, SPACE) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.csv", "", "first line"),
        ("r.csv", "lr,lr,value\n", "each once"),
        ("r.csv", "lr,value\n1\n", "line 2: 1 cells"),
        ("r.csv", CSV.replace("0.42", "good"), "line 3: the value 'good'"),
        ("r.csv", CSV.replace("adam", "adamw"), "line 2: hyperparameter 'optimizer'"),
        ("r.csv", CSV.replace("0.001", "x"), "line 3: hyperparameter 'lr'"),
        (
            "r.csv",
            CSV.replace("0.1,8", "0.1,8" + "0" * 400),
            "line 4: hyperparameter 'depth': an integer this large",
        ),
        ("r.csv", CSV.replace("momentum", "speed"), "line 3: hyperparameter 'speed'"),
        ("r.csv", CSV.replace("value", "loss"), "line 2: there is no 'value'"),
        ("r.csv", CSV + '"open', "damaged CSV"),
        ("r.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("r.jsonl", "{", "line 1: not JSON"),
        ("r.jsonl", "[" * 100_000, "not JSON"),
        ("r.jsonl", "3", "line 1: no JSON object"),
        ("r.jsonl", '{"config": {}, "value": 1}', "line 1: hyperparameter 'lr' has no value"),
        ("r.jsonl", '{"value": true}', "line 1: the value 'True'"),
        ("r.jsonl", '{"value": "1"}', "line 1: the value '1'"),
        ("r.jsonl", '{"value": 1' + "0" * 400 + "}", "line 1: the value '1000"),
    ],
)
def test_damaged_tables_are_said_with_their_line(
    tmp_path: Path, name: str, text: str | bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=re.escape(said)) as mistake:
        read_results(tmp_path / name, SPACE)
    assert "\n" not in str(mistake.value)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_a_table_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.csv", "any.jsonl"):
        (folder / name).write_bytes(content)
        for read in (
            lambda path: read_results(path, SPACE),
            lambda path: read_tasks(path, SPACE),
            lambda path: read_candidates(path, SPACE),
            lambda path: read_candidates(path, None),
            read_space_file,
        ):
            try:
                read(folder / name)
            except InputError as mistake:
                assert str(mistake).startswith(str(folder))


def test_hyperparameter_named_value_needs_the_nested_form(tmp_path: Path) -> None:
    space = Space([Float("value", 0, 1)])
    path = tmp_path / "r.jsonl"
    path.write_text('{"value": 0.5}')
    with pytest.raises(InputError, match="'value' is a hyperparameter too"):
        read_results(path, space)
    path.write_text('{"config": {"value": 0.5}, "value": 3}')
    assert read_results(path, space) == [({"value": 0.5}, 3.0)]


def test_tasks_without_results(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("task" + CSV.replace("\n", "\nt,")[:-2].replace("lr", ",lr", 1))
    assert len(read_tasks(path, SPACE)[0]) == 2
    path.write_text("task,lr,depth,optimizer,value\nt,0.01,3,adam,\n")
    with pytest.raises(InputError, match="task 't' has no result"):
        read_tasks(path, SPACE)
    path.write_text("task,value\n")
    with pytest.raises(InputError, match="no result in it"):
        read_tasks(path, SPACE)


@pytest.mark.parametrize("name", ["svm", "mlp", "boosting"])
def test_space_of_a_collection(repository: Path, name: str) -> None:
    space = read_space_file(repository / "meta_data" / name / "space.json")
    assert Tuner(space).ask()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --space FILE"),
        (["--space", "absent.json"], "absent.json: cannot be read"),
        (["--space", "{space}", "--ask", "0"], "--ask 0"),
        (["--space", "{space}", "--ask", "1", "--state", "x.json"], "do not go together"),
        (["--space", "{space}", "--history", "x.csv"], "needs --ask"),
        (["--space", "{space}", "--ask", "1", "--history", "x.csv"], "x.csv: cannot be read"),
        (["--space", "{space}", "--ask", "1", "--candidates", "x.csv"], "x.csv: cannot be read"),
        (["--space", "{space}", "--policy", "nowhere"], "cannot be read"),
        (["--space", "{space}", "--trials", "0"], "trials is 0"),
        (["--space", "{space}", "--direction", "up"], "--direction"),
    ],
)
def test_mistakes_in_options_and_files_have_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code, out, err = outcome_of(
        capsys, *(word.replace("{space}", str(folder / "space.json")) for word in words)
    )
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("error: ") and len(err.splitlines()) == 1


# ---- the documentation


def blocks(repository: Path, language: str) -> list[str]:
    page = (repository / "docs" / "suggest.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def place(repository: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with the space of the documentation, and an environment in which `hyprl` is this one."""
    (space,) = blocks(repository, "json")
    (tmp_path / "space.json").write_text(space)
    program = tmp_path / "bin" / "hyprl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hyprl_jax "$@"\n')
    program.chmod(0o755)
    return tmp_path, {**environment(), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_shell_of_the_documentation(repository: Path, place: tuple[Path, dict[str, str]]) -> None:
    steps, once = blocks(repository, "bash")
    cwd, variables = place
    done = subprocess.run(["bash", "-euc", steps], capture_output=True, text=True, cwd=cwd, env=variables)
    assert done.returncode == 0 and done.stderr == ""
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["ok"] for answer in answers] == [True] * 3
    results = json.loads((cwd / "search.json").read_text())["results"]
    assert [value for _, value in results] == [config["depth"] ** 2 for config, _ in results]
    done = subprocess.run(["bash", "-euc", once], capture_output=True, text=True, cwd=cwd, env=variables)
    assert done.returncode == 0 and done.stderr == ""
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


def test_perl_of_the_documentation(repository: Path, place: tuple[Path, dict[str, str]]) -> None:
    perl = shutil.which("perl")
    if perl is None or subprocess.run([perl, "-MJSON::PP", "-e", "1"], capture_output=True).returncode:
        pytest.skip("there is no perl with JSON::PP")
    (program,) = blocks(repository, "perl")
    cwd, variables = place
    done = subprocess.run([perl, "-e", program], capture_output=True, text=True, cwd=cwd, env=variables)
    assert done.returncode == 0 and done.stderr == ""
    best = json.loads(done.stdout)["best"]
    assert best["value"] == pytest.approx(
        (math.log(best["config"]["lr"]) + 5) ** 2 + best["config"]["depth"], rel=1e-9
    )
