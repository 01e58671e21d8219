"""Scans in zip and tar archives, read without unpacking: nothing is written to disk.

A scan in an archive has the path `ARCHIVE!MEMBER`; the archive may be an object. Archives are hostile until read: names
lead nowhere, since members are only looked up by name; links and encrypted members are not followed; directories,
members and the inflated size are bounded.
"""

import contextlib
import os
import re
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from nightread.errors import StorageError, UnreadableScan, UnsupportedScan
from nightread.reasons import Reason
from nightread.scan.archive_source import ArchiveOverLimit, FileSource, GzipSource, Source, check_ratio
from nightread.scan.entry import is_zip_name
from nightread.scan.files import check_settled, check_size_bytes, open_file
from nightread.scan.formats import SNIFF_BYTES, SUPPORTED, NoScan, sniff
from nightread.scan.object_address import is_address
from nightread.scan.object_store import open_object
from nightread.scan.zip_names import BYTES, ZipSource

SEPARATOR: Final = "!"
#: The most members of one archive.
MOST_MEMBERS: Final = 100_000
_DIRECTORY_BYTES: Final = 32 * 2**20
_HEADER_BYTES: Final = 2**20
_NO_BUDGET: Final = 2**62
#: Longer names, in characters, are cut: an index of the database holds the path.
_LONGEST_NAME: Final = 500
_LONGEST_SHOWN: Final = 200
_CHUNK_BYTES: Final = 2**20
#: What stands before a member of a zip archive, with a long name.
_LOCAL_HEADER_BYTES: Final = 2**11
_ZIP_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 0x1
_OFFICE: Final = "[Content_Types].xml"
_LEADS_OUT = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.([/\\]|$)", re.DOTALL)
_TAR_BLOCK: Final = 512
_USTAR_AT: Final = 257
#: Archives that stay open in a process: jobs read one member after the other.
_MOST_OPEN: Final = 4
_ARCHIVE_ERRORS: Final = (
    zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, KeyError, IndexError, OverflowError, TypeError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        name: as stored; cut, with its number, if it is too long or not unique.
        size_bytes: inflated, as declared.
        place: where it lies, for the reader of its archive.
        is_special: whether it is a link or a device.
        reason: why it cannot be read; None if it can.
        text: the reason in words.
    """

    name: str
    size_bytes: int
    place: Any
    is_special: bool = False
    reason: Reason | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that was opened and listed.

    Attributes:
        members: its files by name, in their order.
        read: returns at most so many bytes of a member.
        fault: why further members could not be listed, as a reason and in words; None if all were.
    """

    members: dict[str, Member]
    read: Callable[[Member, int], bytes]
    fault: tuple[Reason, str] | None = None


def split_path(path: str) -> tuple[str, str] | None:
    """Return (archive, member) of a path; None for the path of a file, which wins if both exist.

    Of an address all before the first `!` is the archive; nothing is asked for.
    """
    if is_address(path):
        archive, separator, member = path.partition(SEPARATOR)
        return (archive, member) if separator else None
    if SEPARATOR not in path or os.path.lexists(path):
        return None
    for found in re.finditer(SEPARATOR, path):
        if Path(path[: found.start()]).is_file():
            return path[: found.start()], path[found.end() :]
    return None


def can_list(path: str, head: bytes) -> bool:
    """Return whether a file that begins like this may be a zip or tar archive that is read.

    A zip archive may begin anywhere: something stands before it if it was made to extract itself, or by mistake. It is
    looked for where the name promises it; other programs hold archives that are no scans.
    """
    kind = sniff(head)
    is_read = head.startswith((b"PK\3\4", b"PK\5\6", b"\x1f\x8b")) or head.startswith(b"ustar", _USTAR_AT)
    return (is_read and kind is NoScan.ARCHIVE) or (bool(head) and kind is NoScan.UNKNOWN and is_zip_name(path))


def read_head(archive: Archive, member: Member) -> bytes:
    """Return the first bytes of a member, which tell its format; none if it is damaged."""
    try:
        return archive.read(member, SNIFF_BYTES)
    except (*_ARCHIVE_ERRORS, ArchiveOverLimit):
        return b""


def read_member(
    path: str,
    name: str,
    *,
    roots: Sequence[Path],
    max_bytes: int,
    expected_bytes: int | None = None,
    settle_s: float = 0.0,
) -> bytes:
    """Read a whole member.

    Args:
        path: absolute path of the archive, or its address.
        name: of the member.
        roots: resolved folders, and addresses, below which reading is allowed.
        max_bytes: maximum size of the member.
        expected_bytes: size above which the member is not read now, since the archive was replaced.
        settle_s: seconds for which the archive must not have changed.

    Raises:
        UnreadableScan: empty, too large or damaged.
        UnsupportedScan: outside the roots, or a member that cannot be read.
        StorageError: the archive or its member is missing, the archive is changing, or reading failed.
    """
    archive = _open(path, roots, settle_s)
    member = archive.members.get(name)
    if member is None:
        raise StorageError(Reason.MISSING_FILE, "the archive no longer holds this member")
    if member.reason is not None:
        error = UnreadableScan if member.reason is Reason.DAMAGED else UnsupportedScan
        raise error(member.reason, member.text)
    check_size_bytes(member.size_bytes, max_bytes, expected_bytes)
    try:
        data = archive.read(member, member.size_bytes + 1)
    except (*_ARCHIVE_ERRORS, ArchiveOverLimit):
        raise UnreadableScan(Reason.DAMAGED, "the member of the archive is damaged or cut short") from None
    if len(data) != member.size_bytes:
        raise UnreadableScan(Reason.DAMAGED, "the member of the archive has another size than declared")
    return data


_opened: "OrderedDict[Hashable, Archive]" = OrderedDict()
_opening = threading.Lock()


def _open(path: str, roots: Sequence[Path], settle_s: float) -> Archive:
    """Return an archive, listed once for each process while it stays the same file or version of an object."""
    # Opened each time: the path must lead there by now.
    if is_address(path):
        source: Source = open_object(path, roots, settle_s)
    else:
        check_settled(path, settle_s)
        source = FileSource(open_file(path, roots))
    with _opening:
        archive = _opened.pop(source.identity, None) or list_archive(source)
        _opened[source.identity] = archive
        while len(_opened) > _MOST_OPEN:
            _opened.popitem(last=False)
    return archive


def list_archive(source: Source) -> Archive:
    """List the members of an archive.

    Raises:
        UnreadableScan: the archive is damaged, or exceeds a limit.
        UnsupportedScan: a file of another kind, such as a gzip file that holds no tar archive.
        StorageError: the archive cannot be read.
    """
    head = source.read_at(0, SNIFF_BYTES)
    try:
        if head.startswith(b"\x1f\x8b"):
            return _list_tar(GzipSource(source), None)
        if head.startswith(b"ustar", _USTAR_AT):
            return _list_tar(source, source.size_bytes)
        return _list_zip(source)
    except ArchiveOverLimit as error:
        raise UnreadableScan(Reason.TOO_LARGE, f"the archive is not read: {error}") from None
    except _ARCHIVE_ERRORS:
        raise UnreadableScan(Reason.DAMAGED, "the archive is damaged or cut short") from None
    except OSError:
        raise StorageError(Reason.STORAGE_ERROR, "reading the archive failed") from None


def _list_zip(source: Source) -> Archive:
    source.budget_bytes = _DIRECTORY_BYTES
    unflagged = ZipSource(source)
    file = zipfile.ZipFile(unflagged, metadata_encoding=BYTES)
    named = [(info, name) for info, name in zip(file.infolist(), unflagged.names, strict=True) if not info.is_dir()]
    infos = [info for info, _ in named]
    unflagged.headers = frozenset(info.header_offset for info in infos)
    if any(name == _OFFICE for _, name in named):
        raise UnsupportedScan(Reason.UNSUPPORTED_FORMAT, f"an Office document; supported are {SUPPORTED}")
    _check_count(len(infos))
    check_ratio(sum(info.file_size for info in infos), source.size_bytes)
    source.budget_bytes = _NO_BUDGET  # what is read of a member is bounded by its caller

    def read(member: Member, most: int) -> bytes:
        info = member.place
        stored_bytes = _LOCAL_HEADER_BYTES + min(most, info.compress_size)
        with source.holding(info.header_offset, stored_bytes), file.open(info) as content:
            return _read_at_most(content.read, most)

    return Archive(_name_apart([_to_zip_member(info, name) for info, name in named]), read)


def _to_zip_member(info: zipfile.ZipInfo, name: str) -> Member:
    is_link = stat.S_ISLNK(info.external_attr >> 16)
    member = Member(name, info.file_size, info, is_special=is_link)
    if info.flag_bits & _ENCRYPTED:
        return _refuse(member, "the member is encrypted; unpack the archive with its password")
    if info.compress_type not in _ZIP_METHODS:
        return _refuse(member, "the member has another compression than Deflate; unpack the archive")
    return member


def _list_tar(source: Source | GzipSource, size_bytes: int | None) -> Archive:
    """List a tar archive of `size_bytes`, unknown if it is compressed."""
    if isinstance(source, GzipSource) and sniff(source.read_at(0, _TAR_BLOCK)) is not NoScan.ARCHIVE:
        raise UnsupportedScan(
            Reason.UNSUPPORTED_FORMAT, "a gzip file that holds no tar archive; unpack it into the folder"
        )
    source.seek(0)
    members: list[Member] = []
    fault = None
    try:
        for info in _iterate_tar(source):
            members.append(_to_tar_member(info, size_bytes))  # noqa: PERF401  # those before a fault are kept
    except ArchiveOverLimit as error:
        fault = Reason.TOO_LARGE, f"the archive is not read further: {error}"
    except _ARCHIVE_ERRORS:
        fault = Reason.DAMAGED, "the archive is not read further: it is damaged or cut short"
    # The state of a gzip file moves with each read.
    reading = threading.Lock() if isinstance(source, GzipSource) else contextlib.nullcontext()

    def read(member: Member, most: int) -> bytes:
        with reading:
            return source.read_at(member.place, min(most, member.size_bytes))

    return Archive(_name_apart(members), read, fault)


def _iterate_tar(source: Source | GzipSource) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar archive; places must ascend, as hostile headers may lead back."""
    source.budget_bytes = _HEADER_BYTES
    file = tarfile.TarFile(fileobj=source)  # type: ignore[arg-type]  # it needs no more of a file
    place, count = -1, 0
    while (info := file.next()) is not None:
        if info.offset <= place or info.size < 0:
            raise ValueError("a header that leads back")
        place, count = info.offset, count + 1
        _check_count(count)
        file.members = []  # type: ignore[attr-defined]  # `next` would keep them all
        source.budget_bytes = _HEADER_BYTES
        if not info.isdir():
            yield info


def _to_tar_member(info: tarfile.TarInfo, size_bytes: int | None) -> Member:
    is_file = info.isreg() and not info.issparse()
    member = Member(info.name, info.size, info.offset_data, is_special=not is_file)
    if size_bytes is not None and is_file and info.offset_data + info.size > size_bytes:
        return Member(
            info.name, info.size, info.offset_data, reason=Reason.DAMAGED, text="the archive ends within this member"
        )
    return member


def _name_apart(members: Sequence[Member]) -> dict[str, Member]:
    """Return members by name; names become unique, bounded in length, and lead nowhere."""
    counts = Counter(member.name for member in members)
    named = {}
    for number, member in enumerate(members, 1):
        kept = member
        if not 1 <= len(member.name) <= _LONGEST_NAME or "\0" in member.name:
            text = f"the name of the member has not 1 to {_LONGEST_NAME} characters, or a null byte"
            kept = _rename(_refuse(member, text), number, counts)
        elif counts[member.name] > 1:
            text = "the archive holds several members of this name; unpack it, and name them apart"
            kept = _rename(_refuse(member, text), number, counts)
        elif _LEADS_OUT.match(member.name):
            kept = _refuse(member, "the name of the member leads out of the archive", Reason.OUTSIDE_ROOTS)
        named[kept.name] = kept
    return named


def _refuse(member: Member, text: str, reason: Reason = Reason.UNSUPPORTED_FORMAT) -> Member:
    return replace(member, reason=reason, text=text)


def _rename(member: Member, number: int, taken: Container[str]) -> Member:
    name = f"{member.name[:_LONGEST_SHOWN]}#{number}".replace("\0", "?")
    while name in taken:
        name += "#"
    return replace(member, name=name)


def _check_count(count: int) -> None:
    if count > MOST_MEMBERS:
        raise ArchiveOverLimit(f"it holds more than {MOST_MEMBERS:,} members")


def _read_at_most(read: Callable[[int], bytes], most: int) -> bytes:
    parts = []
    while most and (part := read(min(most, _CHUNK_BYTES))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)
