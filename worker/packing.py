"""The scans that a folder holds, packed: between listing a large night and writing it down they wait in memory.

They cannot be written while the folder is listed: that takes as long as the storage likes, a transaction of SQLite lets
nobody else write, and one that has failed is done again from its beginning.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

from db.runs import NewScan
from db.types import ScanStatus

_SCANS_PER_PACK = 5_000


class PackedScans:
    """Scans in the order in which they were given; a million takes some ten megabytes, as paths are much alike."""

    def __init__(self, found: Iterable[NewScan]) -> None:
        """Take in all of `found`, going through it once."""
        self._packs: list[bytes] = []
        self._count = 0
        scans = iter(found)
        while part := [_to_fields(scan) for scan in islice(scans, _SCANS_PER_PACK)]:
            self._packs.append(zlib.compress(json.dumps(part).encode(), 1))
            self._count += len(part)

    def __len__(self) -> int:
        """Return how many scans there are."""
        return self._count

    def __iter__(self) -> Iterator[NewScan]:
        """Yield the scans, as often as somebody asks for them."""
        for pack in self._packs:
            for path, size_bytes, *reason in json.loads(zlib.decompress(pack)):
                yield NewScan(path, size_bytes, *_read_reason(*reason)) if reason else NewScan(path, size_bytes)


def _to_fields(scan: NewScan) -> tuple[str | int | None, ...]:
    if scan.status is ScanStatus.QUEUED:
        return scan.path, scan.size_bytes
    return scan.path, scan.size_bytes, scan.status.value, scan.reason_code, scan.reason_text


def _read_reason(status: str, code: str, text: str) -> tuple[ScanStatus, str, str]:
    return ScanStatus(status), code, text
