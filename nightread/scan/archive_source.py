"""File-like readers of archives: bytes with a read budget, those of a file, and a gzip file read from any place.

The parsers of zip and tar trust lengths in the file. A budget bounds what one step of them may read, and so its memory
and time.
"""

import contextlib
import io
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

_CHUNK_BYTES: Final = 2**16
_GZIP_BITS: Final = 31
#: Distance of two places of a gzip file at which reading can begin; each takes 50 KB.
_MARK_BYTES: Final = 32 * 2**20
#: An archive may inflate to this multiple of its size, but always to `_ALWAYS_BYTES`.
_MOST_RATIO: Final = 100
_ALWAYS_BYTES: Final = 64 * 2**20


class ArchiveOverLimit(Exception):
    """An archive declares more than it may; the text says what."""


def check_ratio(inflated_bytes: int, stored_bytes: int) -> None:
    """Refuse an archive that inflates to far more than its size.

    Raises:
        ArchiveOverLimit: it does.
    """
    if inflated_bytes > max(_ALWAYS_BYTES, _MOST_RATIO * stored_bytes):
        raise ArchiveOverLimit(f"it inflates to more than {_MOST_RATIO} times its size")


class Source(ABC):
    """The bytes of an archive; threads can share `read_at`.

    Attributes:
        size_bytes: of the archive when it was opened.
        identity: the same for every source of the same bytes.
        budget_bytes: what may still be read by `read`.
    """

    def __init__(self, size_bytes: int, identity: Hashable) -> None:
        self._place = 0
        self.size_bytes = size_bytes
        self.identity = identity
        self.budget_bytes = 0

    @abstractmethod
    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes at a place, fewer at the end; costs no budget."""

    def holding(self, offset: int, count: int) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002  # for others
        """Read a part at once, where that is cheaper than the reads of this part within."""
        return contextlib.nullcontext()

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes, fewer at the end; all if negative.

        Raises:
            ArchiveOverLimit: the budget is spent.
        """
        left = max(0, self.size_bytes - self._place)
        count = left if count < 0 else min(count, left)
        self.budget_bytes -= count
        if self.budget_bytes < 0:
            raise ArchiveOverLimit("a directory or header of it is too long")
        data = self.read_at(self._place, count)
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, and return it.

        Raises:
            UnsupportedOperation: the place lies before the start. It is an OSError, as of a file, which `zipfile`
                expects of an empty archive, and a ValueError, as of damaged bytes.
        """
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size_bytes}[whence]
        if self._place < 0:
            raise io.UnsupportedOperation("a place before the start")
        return self._place

    def tell(self) -> int:
        """Return the current place."""
        return self._place

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:  # noqa: B027  # the same for all
        """Do nothing: what is open is closed with this object."""


class FileSource(Source):
    """An open file, read without moving its offset, so that forks can share it, too."""

    def __init__(self, descriptor: int) -> None:
        """Own `descriptor`, which is closed with this object."""
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        super().__init__(status.st_size, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))

    def __del__(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes at a place, fewer at the end; costs no budget."""
        data = os.pread(self._descriptor, count, offset)
        while len(data) < count and (more := os.pread(self._descriptor, count - len(data), offset + len(data))):
            data += more
        return data


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place of a gzip file at which reading can begin: inflated and stored offset, and the inflater's state."""

    inflated: int
    stored: int
    inflater: Any
    tail: bytes


class GzipSource:
    """A gzip file as if it were inflated.

    The inflater's state is kept at marks, so that a place is reached from the mark before it, not from the start.

    Attributes:
        budget_bytes: what may still be read by `read`; seeking costs no budget.
    """

    def __init__(self, file: Source) -> None:
        """Begin at the start of `file`."""
        self._file = file
        self._marks = [_Mark(0, 0, zlib.decompressobj(_GZIP_BITS), b"")]
        self._go_to(self._marks[0])
        self.budget_bytes = 0

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes, fewer at the end.

        Raises:
            ArchiveOverLimit: the budget is spent, or the file inflates to far more than its size.
            EOFError: the file is cut short.
            zlib.error: the file is damaged.
        """
        self.budget_bytes -= count
        if count < 0 or self.budget_bytes < 0:
            raise ArchiveOverLimit("a directory or header of it is too long")
        return self._take(count)

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes at a place, fewer at the end; costs no budget."""
        self.seek(offset)
        return self._take(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place and return it, which is the end if the place lies behind it.

        Raises:
            ValueError: relative to the end, which is unknown.
        """
        if whence == os.SEEK_END or offset < 0:
            raise ValueError("a place that is unknown")
        place = offset + (self._inflated if whence == os.SEEK_CUR else 0)
        mark = max((mark for mark in self._marks if mark.inflated <= place), key=lambda mark: mark.inflated)
        if place < self._inflated or mark.inflated > self._inflated:
            self._go_to(mark)
        while self._inflated < place and self._step(place - self._inflated):
            pass
        return self._inflated

    def tell(self) -> int:
        """Return the current place."""
        return self._inflated

    def _go_to(self, mark: _Mark) -> None:
        self._inflated, self._stored, self._tail = mark.inflated, mark.stored, mark.tail
        self._inflater = mark.inflater.copy()
        self._is_begun = bool(mark.inflated)

    def _take(self, count: int) -> bytes:
        parts = []
        while count and (part := self._step(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _step(self, most: int) -> bytes:
        """Return at least one and at most `most` inflated bytes; none at the end."""
        while True:
            if not self._tail:
                self._tail = self._file.read_at(self._stored, _CHUNK_BYTES)
                self._stored += len(self._tail)
            if not self._is_begun and not self._tail.strip(b"\0"):  # the end, or zeros that pad it
                return b""
            if not self._tail:
                raise EOFError
            self._is_begun = True
            data: bytes = self._inflater.decompress(self._tail, min(most, _CHUNK_BYTES))
            self._tail = self._inflater.unconsumed_tail
            if self._inflater.eof:  # another stream may follow
                self._tail, self._is_begun = self._inflater.unused_data, False
                self._inflater = zlib.decompressobj(_GZIP_BITS)
            self._inflated += len(data)
            check_ratio(self._inflated, self._file.size_bytes)
            if self._is_begun and self._inflated - self._marks[-1].inflated >= _MARK_BYTES:
                self._marks.append(_Mark(self._inflated, self._stored, self._inflater.copy(), self._tail))
            if data:
                return data
