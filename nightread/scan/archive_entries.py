"""What a walk finds in an archive: rows and skips of its members, as for the files of a folder."""

import re
from collections import Counter
from collections.abc import Callable, Iterator

from nightread.errors import ScanError, StorageError
from nightread.reasons import Reason
from nightread.scan.archive_source import Source
from nightread.scan.archives import SEPARATOR, Archive, Member, list_archive, read_head
from nightread.scan.entry import FoundScan, Skip, find_skip_reason

_PARTS = re.compile(r"[/\\]")
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
        for member in archive.members.values():
            skip = _find_skip(archive, member)
            if skip is not None:
                skipped[skip] += 1
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


def _find_skip(archive: Archive, member: Member) -> Skip | None:
    """Return why a member is skipped, as for a file in a folder; None if it gets a row."""
    if any(part.startswith(".") and part not in {".", ".."} for part in _PARTS.split(member.name)):
        return Skip.HIDDEN
    if _PARTS.split(member.name)[0] == _APPLE_FOLDER:
        return Skip.HIDDEN
    if member.is_special:
        return Skip.SPECIAL
    if member.reason is not None:
        return None
    head = read_head(archive, member)
    return find_skip_reason(member.name, head) if head else None
