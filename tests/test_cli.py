"""The command line: verbs, options, exit codes, one JSON object, quick help, clean endings."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax import __version__
from hyprl_jax.__main__ import VERBS, main, overview
from hyprl_jax.cli import common
from hyprl_jax.cli.common import Command, JsonFlag, Outcome, UsageError, plain, read_options
from hyprl_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Do something.

    Example:
      hyprl something --numbers 1,2
    """

    numbers: tuple[int, ...] = (0,)
    names: tuple[str, ...] = ()
    count: int = 1
    json: JsonFlag = False


def outcome_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> tuple[int, str, str]:
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_with(run: Any, words: list[str]) -> int:
    """The exit code of a verb that does `run`."""
    command = Command(Options, run)
    return common.run_guarded(lambda: common.run_command(command, "something", words), "--json" in words)


# ---- finding the verb


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview_names_every_verb(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, err = outcome_of(capsys, words)
    assert code == 0
    assert all(verb in out for verb in VERBS)
    assert not err
    assert out.strip() == overview()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome_of(capsys, ["--version"]) == (0, f"hyprl-jax {__version__}\n", "")


def test_group_help_shows_its_verbs_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome_of(capsys, ["surfaces", "--help"])
    assert code == 0
    assert "surfaces validate" in out
    assert "bench" not in out


@pytest.mark.parametrize("words", [["fly"], ["surfaces", "fly"], ["--jsn"]])
def test_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, err = outcome_of(capsys, words)
    assert code == 2
    assert not out
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "use one of" in err


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_of_every_verb_has_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, err = outcome_of(capsys, [*verb.split(), "--help"])
    assert code == 0
    assert "Example" in out
    assert f"hyprl {verb}" in out
    assert "--json" in out
    assert not err


@pytest.mark.parametrize("verb", list(VERBS))
def test_unknown_option_of_every_verb(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, err = outcome_of(capsys, [*verb.split(), "--no-such-option", "--json"])
    assert code == 2
    assert json.loads(out)["code"] == 2
    assert len(err.splitlines()) == 1
    assert f"hyprl {verb} --help" in err


# ---- reading options


def test_tuples_are_written_with_commas() -> None:
    options = read_options(Options, ["--numbers", "3,1,2", "--names", "a, b"], "hyprl something")
    assert options.numbers == (3, 1, 2)
    assert options.names == ("a", "b")


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=5))
def test_any_numbers_are_read(numbers: list[int]) -> None:
    word = "--numbers=" + ",".join(map(str, numbers))
    assert read_options(Options, [word], "hyprl something").numbers == tuple(numbers)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--numbers", "1,x"], "'x'"),
        (["--count", "many"], "'many'"),
        (["--count"], "--count"),
        (["--cuont", "3"], "did you mean --count"),
        (["stray"], "stray"),
    ],
)
def test_mistaken_options_are_said_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as mistake:
        read_options(Options, words, "hyprl something")
    assert said in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert str(mistake.value).endswith("see `hyprl something --help`")


@given(st.lists(st.text(max_size=8), max_size=4))
def test_any_words_give_options_or_a_usage_error(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        return
    try:
        read_options(Options, words, "hyprl something")
    except UsageError as mistake:
        assert "\n" not in str(mistake)


# ---- what is printed


@dataclass(frozen=True)
class Card:
    name: str = "x"
    path: Path = Path("a") / "b"
    values: Any = field(default_factory=lambda: np.array([1.5, np.nan]))


def test_plain_makes_json_of_what_the_library_returns() -> None:
    value = {
        "card": Card(),
        1: (np.float32(0.5), np.int64(3), np.bool_(True)),
        "inf": -math.inf,
        "none": None,
    }
    assert plain(value) == {
        "card": {"name": "x", "path": "a/b", "values": [1.5, None]},
        "1": [0.5, 3, True],
        "inf": None,
        "none": None,
    }
    json.dumps(plain(value), allow_nan=False)


def test_json_is_the_only_thing_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    def chatty(options: Options) -> Outcome:
        print("a library prints")
        return Outcome({"numbers": options.numbers, "score": math.nan}, ["for people"])

    assert run_with(chatty, ["--json", "--numbers", "4,5"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"numbers": [4, 5], "score": None}
    assert len(captured.out.splitlines()) == 1
    assert "a library prints" in captured.err


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(lambda _: Outcome({}, ["[brackets] stay", "second"], code=2), []) == 2
    assert capsys.readouterr().out == "[brackets] stay\nsecond\n"


# ---- exit codes


def fail_with(error: BaseException) -> Any:
    def run(_: Options) -> Outcome:
        raise error

    return run


def test_input_mistake_is_one_line_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(fail_with(InputError("row 3 is\n  empty: fill it")), []) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: row 3 is empty: fill it\n"
    assert not captured.out


def test_input_mistake_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(fail_with(InputError("row 3 is empty")), ["--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": "row 3 is empty", "code": 2}
    assert captured.err == "error: row 3 is empty\n"


def test_defect_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(fail_with(RuntimeError("ours")), ["--json"]) == 1
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    assert json.loads(captured.out)["code"] == 1


def test_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(fail_with(OSError(errno.ENOSPC, "No space left on device", "x")), []) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(fail_with(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


# ---- as a process


def process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "hyprl_jax", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=options.pop("cwd"), **options)


def test_help_imports_nothing_heavy(repository: Path) -> None:
    script = (
        "import sys; from hyprl_jax.__main__ import main; code = main(['train', '--help']);"
        "heavy = {'jax', 'flax', 'matplotlib', 'pandas', 'sklearn', 'scipy', 'numpy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert "--learner.learning-rate" in done.stdout


def test_process_exit_codes(repository: Path) -> None:
    assert process("--version", cwd=repository).stdout == f"hyprl-jax {__version__}\n"
    mistaken = process("train", "--seed", "x", "--json", cwd=repository)
    assert mistaken.returncode == 2
    assert json.loads(mistaken.stdout)["code"] == 2
    assert "Traceback" not in mistaken.stderr


def test_reader_that_goes_away_is_no_failure(repository: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hyprl_jax", "train", "--help"]
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, cwd=repository)
    assert done.returncode == 0
    assert not done.stderr
