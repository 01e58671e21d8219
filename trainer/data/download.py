"""Download of one large file that resumes after a break, and safe unpacking of the archive.

Libraries that download with checksums (pooch) restart after every break: too slow for 1.2 GB over a bad line.
"""

import hashlib
import json
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from trainer.errors import DatasetError

#: Attempts in a row that bring no bytes.
_ATTEMPTS: Final = 4
_TIMEOUT_S: Final = 60.0
_PIECE_BYTES: Final = 2**20

#: Largest size of an unpacked archive; the known ones are below 3 GB.
_MAX_UNPACKED_BYTES: Final = 20 * 2**30

_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A complete download.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        size_bytes: of the file.
    """

    path: Path
    sha256: str
    size_bytes: int


class _TryAgainError(Exception):
    """The connection broke or the server failed; the bytes received so far are kept."""


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    report: Callable[[int, int | None], None],
    pause_s: float = 2.0,
) -> Downloaded:
    """Download a file to `path`; resume an earlier download of the file.

    `PATH.partial` holds the bytes received so far. `PATH.partial.json` names the edition that they belong to, so that
    halves of different files are never joined.

    Args:
        url: of the file.
        path: appears when the file is complete and its digest is right.
        sha256: expected; None if none is published.
        report: called with (bytes done, bytes in all or None).
        pause_s: back-off after a failure; doubled after each further one in a row.

    Raises:
        DatasetError: the server refuses, does not answer or sends another file, or the disk is too small.
    """
    partial = path.with_name(f"{path.name}.partial")
    failures = 0
    while True:
        had = _read_state(partial)[0]
        try:
            _fetch(url, partial, report)
            break
        except _TryAgainError as error:
            # A connection that breaks after every few megabytes still gets there; one that brings nothing does not.
            failures = 1 if _read_state(partial)[0] > had else failures + 1
            if failures == _ATTEMPTS:
                raise DatasetError(
                    f"{url} could not be fetched ({error}): repeat the command to resume, or fetch the file elsewhere, "
                    "unpack it, and give its folder to `nightread train --data`"
                ) from None
            time.sleep(pause_s * 2 ** (failures - 1))
    digest = _hash(partial)
    if sha256 is not None and digest != sha256.lower():
        _forget(partial)
        raise DatasetError(f"{url} sent a file with the SHA-256 {digest}, not {sha256}; the file was deleted")
    partial.replace(path)
    _forget(partial)
    return Downloaded(path, digest, path.stat().st_size)


def unpack(archive: Path, folder: Path, *, comment: str | None = None) -> int:
    """Unpack a ZIP archive into a new folder, which appears when it is complete and every CRC is right.

    A single top folder, as in archives of repositories, is removed from the paths.

    Args:
        archive: the file.
        folder: must not exist.
        comment: required comment of the archive: Git writes the commit there.

    Returns:
        The number of files.

    Raises:
        DatasetError: no ZIP archive, damaged, another comment, too large, or with a link or a path out of the folder.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            _check_comment(archive, opened, comment)
            members = [member for member in opened.infolist() if not member.is_dir() and not _is_clutter(member)]
            _check_members(archive, members)
            top = _find_top(members)
            for member in members:
                place = partial / PurePosixPath(member.filename).relative_to(top)
                place.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target, _PIECE_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DatasetError(f"{archive} is no intact ZIP archive ({error}): delete it and repeat the command") from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.replace(folder)
    return len(members)


def _fetch(url: str, partial: Path, report: Callable[[int, int | None], None]) -> None:
    """Complete `partial`, or raise `_TryAgainError` and keep the bytes received so far."""
    done, edition = _read_state(partial)
    headers = {"User-Agent": "nightread", "Accept-Encoding": "identity"}
    if done and edition:
        headers |= {"Range": f"bytes={done}-", "If-Range": edition}
    try:
        with urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S) as response:  # noqa: S310 - our own addresses
            _receive(response, partial, done if response.status == HTTPStatus.PARTIAL_CONTENT else 0, report)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _forget(partial)
        elif error.code < _SERVER_ERROR:
            raise DatasetError(
                f"{url} was refused ({error.code} {error.reason}): fetch the data elsewhere and give their folder to "
                "`nightread train --data`"
            ) from None
        raise _TryAgainError(f"{error.code} {error.reason}") from None
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise _TryAgainError(str(getattr(error, "reason", error))) from None


def _receive(response: HTTPResponse, partial: Path, done: int, report: Callable[[int, int | None], None]) -> None:
    length = response.headers.get("Content-Length")
    total = None if length is None else done + int(length)
    partial.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(partial.parent).free
    if total is not None and total - done > free:
        raise DatasetError(f"{partial.parent} has {free:,} bytes free; {total - done:,} are needed: make room")
    edition = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    # A weak tag does not identify bytes.
    _state_path(partial).write_text(json.dumps({"edition": "" if edition.startswith("W/") else edition}))
    with partial.open("ab" if done else "wb") as file:
        report(done, total)
        while piece := response.read(_PIECE_BYTES):
            file.write(piece)
            done += len(piece)
            report(done, total)
    if total is not None and done != total:
        raise _TryAgainError(f"{done:,} of {total:,} bytes received")


def _state_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _read_state(partial: Path) -> tuple[int, str]:
    try:
        edition = json.loads(_state_path(partial).read_text())["edition"]
        return partial.stat().st_size, str(edition)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _state_path(partial).unlink(missing_ok=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_comment(archive: Path, opened: zipfile.ZipFile, comment: str | None) -> None:
    if comment is not None and opened.comment.decode("ascii", "replace") != comment:
        raise DatasetError(f"{archive} is another edition: {opened.comment[:80]!r}, not {comment}")


def _is_clutter(member: zipfile.ZipInfo) -> bool:
    """Return whether macOS has added the file to the data."""
    return member.filename.startswith("__MACOSX/") or PurePosixPath(member.filename).name == ".DS_Store"


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise DatasetError(f"{archive} holds a path out of its folder; nothing was unpacked")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DatasetError(f"{archive} holds a link; nothing was unpacked")
    size = sum(member.file_size for member in members)
    free = shutil.disk_usage(archive.parent).free
    if size > min(free, _MAX_UNPACKED_BYTES):
        raise DatasetError(
            f"{archive} would unpack to {size:,} bytes; {free:,} are free and {_MAX_UNPACKED_BYTES:,} allowed; nothing "
            "was unpacked"
        )


def _find_top(members: list[zipfile.ZipInfo]) -> PurePosixPath:
    """Return the single top folder, or an empty path."""
    firsts = {PurePosixPath(member.filename).parts[0] for member in members}
    shallow = any(len(PurePosixPath(member.filename).parts) == 1 for member in members)
    return PurePosixPath(firsts.pop()) if len(firsts) == 1 and not shallow else PurePosixPath()
