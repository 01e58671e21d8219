"""Batches of a spool: which instances belong to which run, as files that survive the process.

A batch is written down before its run is made, and marked as done after it. A process that dies in between makes the
run again with the same key, and gets the run that exists. So each instance belongs to exactly one run.
"""

import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nightread.failpoints import Point, failpoint

_FOLDER: Final = ".batches"
_OPEN, _DONE = ".open", ".done"


@dataclass(frozen=True, slots=True)
class Batch:
    """Instances that become one run.

    Attributes:
        id: random, part of the run's key.
        names: of its instances, below the spool.
        is_done: whether its run is written.
    """

    id: str
    names: tuple[str, ...]
    is_done: bool = False

    @property
    def key(self) -> str:
        """Idempotency key of its run."""
        return f"receive/{self.id}"


class Batches:
    """The batches of a spool."""

    def __init__(self, spool_folder: Path) -> None:
        self._folder = spool_folder / _FOLDER
        self._folder.mkdir(exist_ok=True, mode=0o700)
        for draft in self._folder.glob("*.part"):
            draft.unlink()

    def list(self) -> Iterator[Batch]:
        """Yield all batches."""
        return list_batches(self._folder.parent)

    def begin(self, names: Iterable[str]) -> Batch:
        """Write a new batch down; on return it is on disk."""
        batch = Batch(uuid.uuid4().hex, tuple(sorted(names)))
        draft = self._folder / f"{batch.id}.part"
        with draft.open("x", encoding="ascii") as written:
            written.write("".join(f"{name}\n" for name in batch.names))
            written.flush()
            os.fsync(written.fileno())
        draft.rename(self._folder / f"{batch.id}{_OPEN}")
        self._flush()
        failpoint(Point.RECEIVE_AFTER_BATCH)
        return batch

    def end(self, batch: Batch) -> None:
        """Mark a batch whose run is written."""
        failpoint(Point.RECEIVE_BEFORE_DONE)
        (self._folder / f"{batch.id}{_OPEN}").rename(self._folder / f"{batch.id}{_DONE}")
        self._flush()

    def forget(self, batch: Batch) -> None:
        """Delete a batch whose instances are gone."""
        (self._folder / f"{batch.id}{_DONE}").unlink(missing_ok=True)

    def _flush(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def list_batches(spool_folder: Path) -> Iterator[Batch]:
    """Yield all batches of a spool, whoever has it open."""
    folder = spool_folder / _FOLDER
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix in {_OPEN, _DONE}:
            names = tuple(file.read_text(encoding="ascii").splitlines())
            yield Batch(file.stem, names, is_done=file.suffix == _DONE)
