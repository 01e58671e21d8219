"""Thumbnails on disk: a folder of its owner alone, within a bound; the least recently used ones go first."""

import contextlib
import logging
import os
import re
import stat
import tempfile
import threading
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIX: Final = ".webp"
#: What remains after the bound was reached: not every new thumbnail lists the folder.
_KEPT_SHARE: Final = 0.8


class ThumbnailCache:
    """Thumbnails by the digest of the scan's content; without a folder, or where it cannot be used, nothing is kept."""

    def __init__(self, folder: Path | None, most_bytes: int) -> None:
        """Open the folder, and make it if it is missing.

        Args:
            folder: only its owner may look into it; None for no cache.
            most_bytes: the size of all thumbnails together; 0 for no cache.
        """
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._folder = folder if folder is not None and most_bytes and _make_private(folder) else None
        self._bytes = sum(size for _, size, _ in self._list())

    def find(self, sha256: str) -> bytes | None:
        """Return the thumbnail of a content; None if it is not kept."""
        if self._folder is None or not _DIGEST.fullmatch(sha256):
            return None
        file = self._folder / f"{sha256}{_SUFFIX}"
        try:
            data = file.read_bytes()
            os.utime(file)
        except OSError:
            return None
        return data

    def keep(self, sha256: str, thumbnail: bytes) -> None:
        """Keep the thumbnail of a content; a full disk is no error."""
        if self._folder is None or not _DIGEST.fullmatch(sha256) or len(thumbnail) > self._most_bytes:
            return
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".new-", delete=False) as file:  # mode 0600
                file.write(thumbnail)
            Path(file.name).replace(self._folder / f"{sha256}{_SUFFIX}")
        except OSError as error:
            _log.warning("a thumbnail cannot be kept: %s", error.strerror)
            return
        with self._lock:
            self._bytes += len(thumbnail)
            if self._bytes > self._most_bytes:
                self._shrink()

    def _shrink(self) -> None:
        """Delete the least recently used thumbnails, until there is room again."""
        found = sorted(self._list())
        self._bytes = sum(size for _, size, _ in found)
        for _, size, file in found:
            if self._bytes <= self._most_bytes * _KEPT_SHARE:
                break
            with contextlib.suppress(OSError):
                file.unlink()
            self._bytes -= size

    def _list(self) -> list[tuple[float, int, Path]]:
        """Return (time of the last use, size, file) of each thumbnail."""
        found = []
        for file in () if self._folder is None else self._folder.iterdir():
            with contextlib.suppress(OSError):
                status = file.stat()
                found.append((status.st_mtime, status.st_size, file))
        return found


def _make_private(folder: Path) -> bool:
    """Make a folder that only this user may use; returns whether it is one, for another user might plant pictures."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        _log.warning("thumbnails are not kept: %s (NIGHTREAD_WEB_CACHE_DIR)", error.strerror)
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        _log.warning("thumbnails are not kept: their folder is open to other users (NIGHTREAD_WEB_CACHE_DIR)")
        return False
    return True
