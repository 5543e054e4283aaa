"""Shards of a packed collection: which tasks a chunk of updates is trained on, read one chunk ahead.

In every epoch each training task is in at least one shard: the tasks are shuffled and dealt out in order, and
the last shard of an epoch is filled up with those before it. Which tasks are in the shard of a chunk depends
on `stream.seed`, the fold and the number of the chunk alone, so that a resumed run is given what it would
have been given, and a member's shards are the same whatever is trained beside it.

A shard knows its training tasks and the validation tasks of the run, in this order, as a fold in memory does.
The tasks that a run is judged on never change: some training tasks for reference, and the validation tasks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from hyprl_jax import bank as banks
from hyprl_jax.bank import BankIndex, Fold, SurfaceBank
from hyprl_jax.config import StreamConfig
from hyprl_jax.streams.files import LARGE
from hyprl_jax.streams.packs import Pack
from hyprl_jax.surfaces import Split

__all__ = ["Sides", "Stream", "shard_rows", "shards_ahead"]

_REFERENCE, _VALIDATION, _SHARDS = range(3)  # what is drawn, so that no two draws are the same


class Sides(NamedTuple):
    """Rows of the pack that a fold may know, in rising order."""

    train: np.ndarray
    """All training tasks."""
    reference: np.ndarray
    """Those of them that the run is judged on."""
    validation: np.ndarray
    """The validation tasks that are used."""


def shard_rows(train: np.ndarray, size: int, seed: int, fold: int, chunk: int) -> np.ndarray:
    """Rows, in rising order, of the `size` training tasks in the shard of a chunk, among the rows `train`."""
    shards = -(-len(train) // size)
    epoch, place = divmod(chunk, shards)
    order = _generator(seed, fold, _SHARDS, epoch).permutation(len(train))
    end = min((place + 1) * size, len(train))
    return np.sort(train[order[end - size : end]])


class Stream:
    """The shards of the folds of a run, as NumPy arrays.

    Args:
        pack: the packed collection.
        splits: one split of its tasks for each fold.
        config: how many tasks are used at a time.
    """

    def __init__(self, pack: Pack, splits: Sequence[Split], config: StreamConfig) -> None:
        self.pack, self.config = pack, config
        self._folds = [split.fold for split in splits]
        self.sides = [_sides(pack, split, config) for split in splits]
        self._groups = np.unique(np.asarray(pack.outline.groups), return_inverse=True)[1]
        self._sizes = [min(config.tasks, len(one.train)) for one in self.sides]

    def rows(self, chunk: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows of the training and of the validation tasks in the shard of a chunk, of each fold."""
        return [
            (shard_rows(one.train, size, self.config.seed, fold, chunk), one.validation)
            for one, size, fold in zip(self.sides, self._sizes, self._folds, strict=True)
        ]

    def read(self, chunk: int) -> tuple[SurfaceBank, Fold]:
        """The shard of a chunk and its folds `[folds, ...]`; always of the same shapes.

        Raises InputError if the pack is found damaged.
        """
        parts = self.rows(chunk)
        every = np.concatenate([rows for part in parts for rows in part])
        return self._bank(every), _known(parts)

    def reference(self) -> tuple[SurfaceBank, Fold, BankIndex]:
        """What the run is judged on: a bank, its folds `[folds, ...]`, and its names."""
        every = np.unique(np.concatenate([np.concatenate(one[1:]) for one in self.sides]))
        table = self.pack.tables(every)
        index = BankIndex((table,), tuple((table.collection, task) for task in table.tasks))
        places = [
            (np.searchsorted(every, one.reference), np.searchsorted(every, one.validation))
            for one in self.sides
        ]
        widest = max(len(train) + len(validation) for train, validation in places)
        folds = [_fold(train, validation, widest) for train, validation in places]
        return self._bank(every), _stacked(folds), index

    def shapes(self, bank: SurfaceBank, folds: Fold) -> tuple[SurfaceBank, Fold]:
        """The shapes of every shard and its folds, of the dtypes of those that are judged."""
        rows = sum(len(part) for pair in self.rows(0) for part in pair)
        known = max(sum(map(len, pair)) for pair in self.rows(0))

        def struct(leaf: Any, *shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        wide = {name: struct(leaf, rows, *leaf.shape[1:]) for name, leaf in bank._asdict().items()}
        each = len(self.sides)
        return (
            SurfaceBank(**{**wide, "encodings": struct(bank.encodings, *bank.encodings.shape)}),
            Fold(
                struct(folds.known, each, known),
                struct(folds.usable, each, known),
                struct(folds.trained, each),
            ),
        )

    def _bank(self, rows: np.ndarray) -> SurfaceBank:
        outline = self.pack.outline
        read = self.pack.read(rows)
        # Numbered anew: there are never more groups than tasks in a bank.
        group = np.unique(self._groups[rows], return_inverse=True)[1]
        return SurfaceBank(
            **{name: read[name] for name in LARGE},  # type: ignore[arg-type]
            best=self.pack.best[rows],
            worst=self.pack.worst[rows],
            encodings=outline.encodings[None],  # type: ignore[arg-type]
            metafeatures=outline.metafeatures[rows].astype(np.float32),
            collection=np.zeros(len(rows), np.int32),  # type: ignore[arg-type]
            group=group.astype(np.int32),  # type: ignore[arg-type]
        )


class Ahead:
    """The shards of a run in the order of its chunks, one a call; see `shards_ahead`."""

    def __init__(self, read: Any, first: int, chunks: int) -> None:
        self.waited = 0.0
        """Seconds that calls have waited for shards altogether."""
        self._read, self._next, self._chunks = read, first, chunks
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shards")
        self._coming: Future | None = None
        self._begin()

    def __call__(self) -> Any:
        """What was read for the next chunk, when it is there; the one after it is begun."""
        if self._coming is None:
            raise ValueError("there are no more chunks to read shards for")
        began = time.monotonic()
        shard = self._coming.result()
        self.waited += time.monotonic() - began
        self._begin()
        return shard

    def close(self) -> None:
        """Waits for what is being read and lets go of it."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._coming = None

    def _begin(self) -> None:
        more = self._next < self._chunks
        self._coming = self._worker.submit(self._read, self._next) if more else None
        self._next += 1


@contextmanager
def shards_ahead(read: Any, first: int, chunks: int) -> Iterator[Ahead]:
    """`read(chunk)` for the chunks from `first` to the last of `chunks`, in a thread of its own, always one
    ahead of the one that was asked for. What `read` raises, the call raises."""
    ahead = Ahead(read, first, chunks)
    try:
        yield ahead
    finally:
        ahead.close()


def _sides(pack: Pack, split: Split, config: StreamConfig) -> Sides:
    places = {task: row for row, task in enumerate(pack.outline.tasks)}
    train, validation = (
        np.sort(np.asarray([places[task] for task in tasks], np.int64))
        for tasks in (split.train, split.validation)
    )
    return Sides(
        train,
        _some(train, config.reference, _generator(config.seed, split.fold, _REFERENCE)),
        _some(validation, config.validation, _generator(config.seed, split.fold, _VALIDATION)),
    )


def _some(rows: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """At most `number` of the rows, in rising order."""
    return np.sort(random.permutation(rows)[:number])


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers)))


def _known(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Fold:
    """The folds of a bank that holds the training and validation tasks of one fold after the other's."""
    widest = max(len(train) + len(validation) for train, validation in parts)
    folds, offset = [], 0
    for train, validation in parts:
        middle, end = offset + len(train), offset + len(train) + len(validation)
        folds.append(_fold(np.arange(offset, middle), np.arange(middle, end), widest))
        offset = end
    return _stacked(folds)


def _fold(train: np.ndarray, validation: np.ndarray, size: int) -> Fold:
    return banks.fold_of(train.astype(np.int32), validation.astype(np.int32), size)


def _stacked(folds: Sequence[Fold]) -> Fold:
    return Fold(*(np.stack(leaves) for leaves in zip(*folds, strict=True)))  # type: ignore[arg-type]
