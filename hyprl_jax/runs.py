"""A run folder: what training leaves behind, written so that a kill at any moment leaves it readable.

    config.json     the complete configuration; a folder with it is a run
    versions.json   of everything that takes part, to tell why a figure changed
    metrics.jsonl   one JSON object a chunk, in order of `env_steps`
    events/         the same for TensorBoard
    checkpoints/    see hyprl_jax.checkpoints
    evaluation/ export/ plots/

Numbers in `metrics.jsonl` are strict JSON: what is not finite is written as null.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.versions import collect_versions

__all__ = ["MetricsWriter", "RunFolder", "plot_metrics", "read_metrics"]

_CONFIG = "config.json"
_VERSIONS = "versions.json"
_LOCK = ".lock"
_JSON_LIMIT = 16 * 2**20  # bytes of config.json or of one line of metrics.jsonl that are read at most


class RunFolder:
    """An existing run; `RunFolder.create` makes a new one.

    Raises InputError if `path` is no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / _CONFIG).is_file():
            raise InputError(f"{self.path} is not a run: it has no {_CONFIG}")

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> RunFolder:
        """A new run in a folder that does not exist or is empty, with its configuration and versions.

        Raises InputError if the folder holds a run or anything else already, or cannot be written.
        """
        path = Path(path)
        text = _to_json(config)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / _CONFIG).exists():
                raise InputError(f"{path} holds a run already: resume it or choose another folder")
            # An earlier attempt may have been killed before its config.json, which makes a folder a run.
            foreign = {entry.name for entry in path.iterdir()} - {_VERSIONS, _LOCK}
            if {name for name in foreign if not name.startswith(".writing-")}:
                raise InputError(f"{path} is not empty and is not a run: choose another folder")
            _write_atomically(path / _VERSIONS, _to_json(collect_versions()))
            _write_atomically(path / _CONFIG, text)
        except OSError as error:
            raise InputError(f"cannot create the run {path}: {error.strerror or error}") from error
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def read_config(self) -> dict[str, Any]:
        """The configuration of the run; InputError if it cannot be read."""
        return _read_object(self.path / _CONFIG)

    def read_versions(self) -> dict[str, Any]:
        """The versions that the run was started with; InputError if they cannot be read."""
        return _read_object(self.path / _VERSIONS)

    def version_changes(self) -> list[str]:
        """What is of another version now, as lines like `jax 0.10.2 -> 0.11.0`."""
        before, now = self.read_versions(), collect_versions()
        return [
            f"{name} {before.get(name)} -> {now.get(name)}"
            for name in sorted(before | now)
            if before.get(name) != now.get(name)
        ]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the run meanwhile; InputError if one already does."""
        with open(self.path / _LOCK, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"another process is writing to {self.path}: wait for it or stop it"
                ) from error
            yield

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, oldest first; unreadable lines are left out."""
        return read_metrics(self.metrics_file)

    def metrics_writer(self, after: int | None = None, tensorboard: bool = True) -> MetricsWriter:
        """A writer that appends rows; rows beyond `after` env-steps go first, as they are about to be redone.

        Pass the step of the restored checkpoint on a resume (and 0 on a fresh start).
        """
        return MetricsWriter(self.metrics_file, self.events if tensorboard else None, after)


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file, oldest first; none if there is no file.

    A line that is torn or is not a JSON object with an integer `env_steps` is left out.
    """
    rows = []
    with contextlib.suppress(FileNotFoundError), open(file, "rb") as lines:
        while line := lines.readline(_JSON_LIMIT):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line, parse_constant=lambda name: None)
                if isinstance(row, dict) and type(row.get("env_steps")) is int:
                    rows.append(row)
    return rows


class MetricsWriter:
    """Appends rows to a metrics file and to TensorBoard event files; to be closed, or used in a `with`.

    Each row is one write of one line, so that a kill leaves whole lines but perhaps for the last, which is
    repaired at the next opening.
    """

    def __init__(self, file: Path, events: Path | None = None, after: int | None = None) -> None:
        self._file = file
        self._events_folder = events
        self._after = after
        self._events: Any = None
        try:
            kept = [row for row in read_metrics(file) if after is None or row["env_steps"] <= after]
            text = "".join(_to_line(row) for row in kept)
            if not file.exists() or file.read_bytes() != text.encode():
                _write_atomically(file, text)
            self._descriptor: int | None = os.open(file, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise InputError(f"cannot write {file}: {error.strerror or error}") from error

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one row: an integer `env_steps`, and numbers, strings or (nested) lists of them.

        Arrays and scalars of NumPy or JAX become plain numbers. InputError if the disk is full; the file
        then holds whole lines still.
        """
        line = _to_line(row)
        plain = json.loads(line)
        if type(plain.get("env_steps")) is not int:
            raise ValueError("a row of metrics needs an integer env_steps")
        if self._descriptor is None:
            raise ValueError("the metrics writer is closed")
        size = os.fstat(self._descriptor).st_size
        content = line.encode()
        try:
            if os.write(self._descriptor, content) != len(content):
                raise OSError("no space left on the disk")
            self._append_event(plain)
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            reason = error.strerror or error
            raise InputError(
                f"cannot write {self._file} ({reason}): free space, then resume the run"
            ) from error

    def close(self) -> None:
        """Closes the files; closing twice does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def _append_event(self, row: Mapping[str, Any]) -> None:
        """One TensorBoard event with every finite number of the row; a list stands for its mean."""
        if self._events_folder is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self._events is None:
            self._events = _open_events(self._events_folder, self._after)
        values = {name: _mean(value) for name, value in row.items() if name != "env_steps"}
        scalars = [
            Summary.Value(tag=name, simple_value=value) for name, value in values.items() if value is not None
        ]
        self._events.write_event(
            Event(wall_time=time.time(), step=row["env_steps"], summary=Summary(value=scalars))
        )
        self._events.flush()


def plot_metrics(run: RunFolder) -> Path:
    """Draws the curves of a run, regret and loss against env-steps, into `plots/learning_curves.png`.

    Where a row has a list (one number a seed), the seeds are drawn thinly and their mean on top.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = run.read_metrics()
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {"normalized regret": ("regret_train", "regret_validation"), "loss": ("loss",)}
    for axes, (label, names) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name in names:
            _draw_curve(axes, rows, name)
        axes.set(xlabel="environment steps", ylabel=label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    path = run.plots / "learning_curves.png"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    figure.savefig(temporary, dpi=150, format="png")
    os.replace(temporary, path)
    return path


def _draw_curve(axes: Any, rows: list[dict[str, Any]], name: str) -> None:
    """One curve against env-steps, of the rows that have a number for it; thin curves for seeds."""
    known = [(row["env_steps"], row[name]) for row in rows if _mean(row.get(name)) is not None]
    if not known:
        return
    steps, values = zip(*known, strict=True)
    (line,) = axes.plot(steps, [_mean(value) for value in values], label=name, marker=".", markersize=3)
    if all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        for seed in range(len(values[0])):
            curve = [_mean(value[seed]) for value in values]
            known_curve = [math.nan if number is None else number for number in curve]
            axes.plot(steps, known_curve, color=line.get_color(), linewidth=0.6, alpha=0.4)


def _open_events(folder: Path, after: int | None) -> Any:
    """A synchronous event writer; TensorBoard is told to forget what older files say beyond `after`.

    tensorboardX's usual writer hands events to a thread over a bounded queue and blocks for ever when that
    thread has died of a full disk, so its inner, synchronous one is used.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder.mkdir(parents=True, exist_ok=True)
    # A number of its own for each opening: the name holds whole seconds only, and would be overwritten.
    writer = EventsWriter(str(folder / "events"), f".{len(list(folder.iterdir())):04d}")
    if after is not None:
        log = SessionLog(status=SessionLog.START)
        writer.write_event(Event(wall_time=time.time(), step=after + 1, session_log=log))
    return writer


def _mean(value: Any) -> float | None:
    """The mean of the numbers in a value of a row, None if there are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, list)):
        return None
    numbers = [_mean(entry) for entry in value] if isinstance(value, list) else [float(value)]
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known else None


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _to_line(row: Mapping[str, Any]) -> str:
    return json.dumps(_plain(row), allow_nan=False) + "\n"


def _to_json(value: Mapping[str, Any]) -> str:
    """Indented JSON, to be read by people too; TypeError for what JSON cannot hold."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; InputError if there is none."""
    try:
        if file.stat().st_size > _JSON_LIMIT:
            raise InputError(
                f"{file} is larger than {_JSON_LIMIT} bytes: it cannot be what a run has written"
            )
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}): restore it from a copy") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} is not a JSON object: restore it from a copy")
    return found


def _write_atomically(file: Path, text: str) -> None:
    """Writes a whole text file or leaves it as it was."""
    temporary = file.with_name(f".writing-{os.getpid()}-{file.name}")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
