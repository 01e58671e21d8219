"""What a walk finds in an archive: rows and skips of its members, as for the files of a folder."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from nightread.errors import ScanError, StorageError
from nightread.reasons import Reason
from nightread.scan.archive_source import Source
from nightread.scan.archives import SEPARATOR, Archive, Member, list_archive, read_head
from nightread.scan.entry import FoundScan, Skip, find_skip_reason
from nightread.scan.formats import NoScan, name_other, sniff

#: A backslash after a letter that is not ASCII is no separator but the second byte of one of Shift-JIS.
_PARTS = re.compile(r"/|(?<![^\0-\x7f])\\")
#: Holds copies of what Finder shows of each file.
_APPLE_FOLDER = "__MACOSX"
#: The largest size that the database holds.
_LARGEST_SIZE = 2**63 - 1


def find_members(
    found: FoundScan, open_source: Callable[[], Source], skipped: Counter[Skip], is_taken: Callable[[str], bool]
) -> Iterator[FoundScan]:
    """Yield a row for each scan of an archive, and one for the archive if it cannot be listed to its end.

    Args:
        found: the archive.
        open_source: opens it.
        skipped: receives the counts of skipped members.
        is_taken: tells whether a file has the path of a member.
    """
    try:
        archive = list_archive(open_source())
        for listed in archive.members.values():
            member = _look_at(archive, listed)
            if isinstance(member, Skip):
                skipped[member] += 1
                continue
            path = f"{found.path}{SEPARATOR}{member.name}"
            if is_taken(path):
                text = "a file beside the archive has the path of this member; rename one of them"
                yield FoundScan(f"{path}#", 0, Reason.UNSUPPORTED_FORMAT, text)
            else:
                size_bytes = min(member.size_bytes, _LARGEST_SIZE)
                yield FoundScan(path, size_bytes, member.reason, member.text, found.modified_ns)
    except (ScanError, StorageError) as error:
        yield FoundScan(found.path, found.size_bytes, error.reason, str(error), found.modified_ns)
    else:
        if archive.fault is not None:
            yield FoundScan(found.path, found.size_bytes, *archive.fault, found.modified_ns)


def _look_at(archive: Archive, member: Member) -> Member | Skip:
    """Return a member, refused if it is an archive, or why it is skipped, as for a file in a folder."""
    if any(part.startswith(".") and part not in {".", ".."} for part in _PARTS.split(member.name)):
        return Skip.HIDDEN
    if _PARTS.split(member.name)[0] == _APPLE_FOLDER:
        return Skip.HIDDEN
    if member.is_special:
        return Skip.SPECIAL
    if member.reason is not None:
        return member
    head = read_head(archive, member)
    if sniff(head) is NoScan.ARCHIVE:
        text = f"a {name_other(head)} in an archive, which is not looked into; unpack the outer one into the folder"
        return replace(member, reason=Reason.UNSUPPORTED_FORMAT, text=text)
    is_damaged = not head and member.size_bytes > 0
    return (None if is_damaged else find_skip_reason(member.name, head)) or member
