"""File names as text, and safe reading of files: only below the allowed roots, never through a swapped link."""

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from nightread.errors import StorageError, UnreadableScan, UnsupportedScan
from nightread.reasons import Reason

_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# Traversing a folder requires search permission only, not read permission; O_PATH (Linux) asks for no more.
_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2})")


def encode_path(path: str | os.PathLike[str]) -> str:
    r"""Encode a path as text that every database can store.

    A file name on POSIX is bytes. Bytes that are not UTF-8 become `\xNN` and a backslash is doubled, so that
    `decode_path` restores the exact name.
    """
    return os.fsencode(path).replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")


def decode_path(text: str) -> str:
    """Return the path that `encode_path` encoded."""
    if text.isascii() and "\\" not in text:
        return text
    return os.fsdecode(_ESCAPE.sub(_unescape, text.encode("utf-8")))


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return code if code == b"\\" else bytes([int(code[1:], 16)])


def find_root(path: str, roots: Sequence[Path]) -> Path | None:
    """Return the root that `path` lies below, or None; both must be resolved already."""
    return next((root for root in roots if Path(path).is_relative_to(root)), None)


def is_settled(modified_ns: int | None, settle_s: float, now_s: float) -> bool:
    """Return whether a file was last written so long ago that it is taken to be complete.

    A time in the future by more than `settle_s` is a wrong clock and tells nothing.

    Args:
        modified_ns: when it was last written, in ns since 1970; None if unknown.
        settle_s: seconds without a change.
        now_s: the time, in seconds since 1970.
    """
    return modified_ns is None or abs(now_s - modified_ns / 1e9) >= settle_s


def check_settled(path: str, settle_s: float) -> None:
    """Check that a file has not changed for some time; one that is not there is left to whoever reads it.

    Raises:
        StorageError: it has.
    """
    with contextlib.suppress(OSError):
        _refuse_unsettled(os.stat(path), settle_s)


def _refuse_unsettled(status: os.stat_result, settle_s: float) -> None:
    if settle_s and not is_settled(status.st_mtime_ns, settle_s, time.time()):
        raise StorageError(Reason.STILL_CHANGING, f"the file was changed within the last {settle_s:g} s")


def read_file(
    path: str, *, roots: Sequence[Path], max_bytes: int, expected_bytes: int | None = None, settle_s: float = 0.0
) -> bytes:
    """Read a whole file once, so that the bytes that are hashed are the bytes that are decoded.

    The path is resolved, must lie below one of `roots`, and is opened component by component with O_NOFOLLOW, so that a
    symbolic link swapped in meanwhile is not followed. A path without links below its root, the usual case, is opened
    that way without being resolved first. Only regular files are read: a FIFO does not block, a device is not opened.

    Args:
        path: absolute path.
        roots: resolved folders below which reading is allowed.
        max_bytes: maximum size of the file.
        expected_bytes: size above which the file is not read now, since it has grown; None for no such size.
        settle_s: seconds for which it must not have changed.

    Raises:
        UnreadableScan: empty, too large, or not a regular file.
        UnsupportedScan: outside the roots.
        StorageError: missing, changing, larger than expected, no permission, or an I/O error; all may be transient.
    """
    descriptor = open_file(path, roots)
    try:
        status = os.fstat(descriptor)
        _refuse_unsettled(status, settle_s)
        check_size_bytes(status.st_size, max_bytes, expected_bytes)
        data = _read_at_most(descriptor, status.st_size + 1)
    except OSError as error:
        raise _explain(error) from None
    finally:
        os.close(descriptor)
    if len(data) != status.st_size:
        raise StorageError(
            Reason.STORAGE_ERROR, "the file changed its size while it was read; retry when it is written completely"
        )
    return data


def open_file(path: str, roots: Sequence[Path]) -> int:
    """Open a regular file for reading as `read_file` does, and return its descriptor, which the caller closes.

    Raises:
        UnreadableScan: not a regular file.
        UnsupportedScan: outside the roots.
        StorageError: missing, no permission, or an I/O error; all may be transient.
    """
    if "\0" in path:
        raise UnreadableScan(Reason.NOT_A_FILE, "the path contains a null byte; no file has such a name")
    if not _is_encodable(path):
        raise UnreadableScan(Reason.NOT_A_FILE, "the path contains a character that no file name can hold")
    descriptor = _open_without_links(path, roots)
    if descriptor is None:
        descriptor = _open_resolved(path, roots)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableScan(Reason.NOT_A_FILE, "not a regular file")
    return descriptor


def _is_encodable(path: str) -> bool:
    """Return whether the file system can spell a path: a lone surrogate that stands for no byte has no spelling."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def check_size_bytes(size_bytes: int, max_bytes: int, expected_bytes: int | None) -> None:
    """Check the size of a file, or of a member of an archive, before it is read.

    Raises:
        UnreadableScan: empty or too large.
        StorageError: larger than expected.
    """
    if size_bytes == 0:
        raise UnreadableScan(Reason.EMPTY_FILE, "the file is empty")
    if size_bytes > max_bytes:
        raise UnreadableScan(
            Reason.TOO_LARGE,
            f"the file has {size_bytes:,} bytes; allowed are {max_bytes:,} (NIGHTREAD_MAX_FILE_BYTES)",
        )
    if expected_bytes is not None and size_bytes > expected_bytes:
        raise _explain_growth(size_bytes, expected_bytes)


def _explain_growth(size_bytes: int, expected_bytes: int) -> StorageError:
    text = (
        f"the file has {size_bytes:,} bytes and was expected to have at most {expected_bytes:,}; retry when it is "
        "written completely"
    )
    return StorageError(Reason.STORAGE_ERROR, text, grown_bytes=size_bytes)


def _open_without_links(path: str, roots: Sequence[Path]) -> int | None:
    """Open a path below a root that holds no links; returns None if it must be resolved first.

    Below a resolved root, a path whose components are neither links (O_NOFOLLOW) nor ".." is already resolved.
    """
    for root in map(str, roots):
        parts = path.removeprefix(root).lstrip("/").split("/") if path.startswith(f"{root.rstrip('/')}/") else []
        if parts and not {"", ".", ".."} & set(parts):
            try:
                return _open_below(root, parts)
            except (
                OSError,
                UnreadableScan,
            ):  # after resolving, the path may lead to another file or have another fault
                return None
    return None


def _open_resolved(path: str, roots: Sequence[Path]) -> int:
    resolved = os.path.realpath(path)
    root = find_root(resolved, roots)
    if root is None:
        raise UnsupportedScan(Reason.OUTSIDE_ROOTS, "the file lies outside the allowed folders (NIGHTREAD_SCAN_ROOTS)")
    try:
        return _open_below(str(root), Path(resolved).relative_to(root).parts)
    except OSError as error:
        raise _explain(error) from None


def _read_at_most(descriptor: int, max_bytes: int) -> bytes:
    """Read up to the end or `max_bytes`; a single read() may return less."""
    data = os.read(descriptor, max_bytes)
    while len(data) < max_bytes and (more := os.read(descriptor, max_bytes - len(data))):
        data += more
    return data


def _open_below(root: str, parts: Sequence[str]) -> int:
    if not parts:  # the root itself is the file
        return _open_file(root, None)
    folder = os.open(root, _FOLDER_FLAGS)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return _open_file(parts[-1], folder)
    finally:
        os.close(folder)


def _open_file(name: str, folder: int | None) -> int:
    # Checked before opening, since opening a device may have side effects; the open file is checked again.
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):  # a link makes open() fail
        raise UnreadableScan(Reason.NOT_A_FILE, "not a regular file")
    return os.open(name, _FILE_FLAGS, dir_fd=folder)


def _explain(error: OSError) -> UnreadableScan | UnsupportedScan | StorageError:
    """Return the scan error for an operating system error; its message does not contain the path."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        # The system's fault, and often a passing one: an expired ticket, a group that is not there yet.
        return StorageError(Reason.PERMISSION_DENIED, "no permission to read the file")
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return UnsupportedScan(
            Reason.OUTSIDE_ROOTS,
            "the path became a link while it was opened; links must stay within the allowed folders",
        )
    if error.errno in {errno.EISDIR, errno.ENXIO}:
        return UnreadableScan(Reason.NOT_A_FILE, "not a regular file")
    if error.errno == errno.ENOENT:
        return StorageError(Reason.MISSING_FILE, "the file no longer exists")
    return StorageError(Reason.STORAGE_ERROR, f"reading failed: {os.strerror(error.errno or errno.EIO)}")
