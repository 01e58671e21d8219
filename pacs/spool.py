"""The spool: whole files of received instances, `DATE/STUDY/INSTANCE.dcm`.

A file appears under its name only once it is whole and on disk: it is written under a temporary name, flushed and
renamed. The date is that of the study, so that an instance that is sent again meets its file, even after midnight.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import pydicom

from nightread.errors import SettingsError
from nightread.failpoints import Point, failpoint

_UID: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_LONGEST_UID: Final = 64
#: Seconds; a connection that is silent for a tenth of it is ended.
_STALE_S: Final = 600
_DATE: Final = re.compile(r"[0-9]{8}")
UNDATED: Final = "undated"
_INCOMING: Final = ".incoming"
LOCK: Final = ".lock"
_TAGS: Final = ("SOPInstanceUID", "StudyInstanceUID", "StudyDate")
_CHUNK_BYTES: Final = 2**20
#: Of attributes and items before the pixels; pydicom reads each one by one, and a radiograph has some hundred.
_MOST_READS: Final = 20_000


class WrongInstance(Exception):
    """An instance that the spool cannot file: an identifier is missing or no UID; the text holds no value of it."""


@dataclass(frozen=True, slots=True)
class Filed:
    """An instance in the spool.

    Attributes:
        name: path below the spool, `DATE/STUDY/INSTANCE.dcm`.
        is_new: whether its bytes were not there before.
    """

    name: str
    is_new: bool


class Spool:
    """A folder of received instances, open to one process.

    Attributes:
        folder: absolute path.
        incoming: folder below it for files that are being written, on the same file system.
    """

    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int) -> None:
        """Open a spool; creates its folder.

        Args:
            folder: where it is.
            max_bytes: largest size of all instances, in bytes; 0: no limit.
            min_free_bytes: bytes of the disk that stay free.

        Raises:
            SettingsError: the folder cannot be used, or another process has it open.
        """
        self.folder = folder.expanduser().absolute()
        self.incoming = self.folder / _INCOMING
        self._max_bytes, self._min_free_bytes = max_bytes, min_free_bytes
        self._naming = threading.Lock()
        try:
            self.incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(f"the spool {folder} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise SettingsError(f"another process has the spool {folder} open: give each a folder of its own") from None
        for left in self.incoming.iterdir():  # of a process that was killed; the sender was told of no success
            left.unlink()
        self._bytes = sum((self.folder / name).stat().st_size for name in self.list_instances())

    def close(self) -> None:
        """Let another process open the spool."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def is_full(self) -> bool:
        """Whether no further instance is taken: its own limit, or that of the disk, is reached."""
        return bool(self._max_bytes and self._bytes >= self._max_bytes) or (
            shutil.disk_usage(self.folder).free < self._min_free_bytes
        )

    @property
    def size_bytes(self) -> int:
        """Size of all instances."""
        return self._bytes

    def list_instances(self) -> Iterator[str]:
        """Yield the names of all instances."""
        return list_instances(self.folder)

    def file(self, written: Path, instance_uid: str | None = None) -> Filed:
        """Move a written instance to its place; on return it is on disk.

        Args:
            written: in `incoming`; is gone afterwards, unless an error is raised.
            instance_uid: SOP Instance UID that its sender announced; None: none was.

        Raises:
            WrongInstance: it has no valid UIDs, or another SOP Instance UID than announced.
            OSError: it cannot be stored.
        """
        date, study, instance = read_place(written)
        if instance_uid is not None and instance != instance_uid:
            raise WrongInstance("its SOP Instance UID is another one than was announced")
        _flush(written)
        failpoint(Point.RECEIVE_BEFORE_RENAME)
        folder = self.folder / date / study
        size = written.stat().st_size
        with self._naming:
            _make_folder(folder, self.folder)
            target = folder / f"{instance}.dcm"
            if target.exists() and not _are_equal(target, written):
                # A PACS that corrects an instance keeps its UID: both stay, and each is scored.
                target = folder / f"{instance}-{_hash(written)[:16]}.dcm"
            is_new = not target.exists()
            if is_new:
                written.rename(target)
                self._bytes += size
            else:
                written.unlink()
        _flush(folder)
        failpoint(Point.RECEIVE_AFTER_RENAME)
        return Filed(f"{date}/{study}/{target.name}", is_new)

    def has(self, study_date: str, study: str, instance: str) -> bool:
        """Return whether an instance is there."""
        date = study_date if _DATE.fullmatch(study_date) else UNDATED
        return is_uid(study) and is_uid(instance) and (self.folder / date / study / f"{instance}.dcm").exists()

    def clean_incoming(self) -> None:
        """Delete what an association that broke off left behind: nothing was written to it for a long time."""
        latest = time.time() - _STALE_S
        for left in self.incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):  # its own association has ended it meanwhile
                if left.stat().st_mtime < latest:
                    left.unlink()

    def remove(self, name: str) -> None:
        """Delete an instance, and its folders once they are empty."""
        file = self.folder / name
        with self._naming:
            try:
                size = file.stat().st_size
                file.unlink()
            except FileNotFoundError:
                return
            self._bytes -= size
            for folder in (file.parent, file.parent.parent):
                try:
                    folder.rmdir()
                except OSError:
                    return


def list_instances(spool_folder: Path) -> Iterator[str]:
    """Yield the names of all instances of a spool, whoever has it open."""
    for date in sorted(spool_folder.iterdir()):
        if date.name.startswith("."):
            continue
        for study in sorted(date.iterdir()):
            for file in sorted(study.iterdir()):
                yield f"{date.name}/{study.name}/{file.name}"


def read_place(file: Path) -> tuple[str, str, str]:
    """Return date, study and instance of a DICOM file; the date is "undated" if there is none.

    Raises:
        WrongInstance: an identifier is missing or no UID, or the file cannot be parsed.
    """
    try:
        with file.open("rb") as opened:
            dataset = pydicom.dcmread(_CountedFile(opened), stop_before_pixels=True, specific_tags=list(_TAGS))
        values = [str(dataset.get(keyword, "")) for keyword in _TAGS]
    except WrongInstance:
        raise
    except Exception as error:  # noqa: BLE001  # any bytes may come, and pydicom raises whatever they lead to
        raise WrongInstance(f"its attributes cannot be parsed ({type(error).__name__})") from None
    instance, study, date = values
    if not is_uid(instance) or not is_uid(study):
        raise WrongInstance("its SOP or Study Instance UID is missing or no UID")
    return (date if _DATE.fullmatch(date) else UNDATED), study, instance


class _CountedFile:
    """A file that can be read a limited number of times: a million empty items would keep a receiver for minutes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, _MOST_READS
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise WrongInstance("it has too many attributes before its pixels")
        return self._file.read(size)


def is_uid(text: str) -> bool:
    """Return whether a text is a UID, and so safe as a name of a file."""
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


def _flush(path: Path) -> None:
    """Write a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path, root: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for parent in (folder.parent, root):
        _flush(parent)


def _are_equal(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and _hash(one) == _hash(other)


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(_CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()
