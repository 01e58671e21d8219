"""Packed scans are restored unchanged, however often a transaction is retried."""

import tracemalloc

from db.runs import NewScan
from db.types import ScanStatus
from worker.runs.intake import PackedScans

HOSTILE = ["/scans/new\nline.png", '/scans/"quote".png', "/scans/שלום.png", r"/scans/\\xff.png", "/scans/\u202e.png"]


def test_scans_come_out_as_they_went_in_each_time():
    given = [
        *(NewScan(path, number) for number, path in enumerate(HOSTILE)),
        NewScan("/scans/locked", 0, ScanStatus.REJECTED, "permission-denied", "no permission to look into it"),
        NewScan("/scans/broken", 0, ScanStatus.FAILED, "storage-error", "reading failed"),
    ]
    packed = PackedScans(iter(given))
    assert len(packed) == 7
    assert [list(packed), list(packed)] == [given, given]


def test_more_scans_than_a_pack_holds_keep_their_order():
    given = [NewScan(f"/scans/{number}.png", number) for number in range(12_345)]
    assert list(PackedScans(given)) == given


def test_no_scans_are_none():
    packed = PackedScans([])
    assert len(packed) == 0
    assert list(packed) == []


def test_packed_scans_take_a_few_bytes_each():
    tracemalloc.start()
    packed = PackedScans(NewScan(f"/scans/2026-11-20/ward-7/scan-{number:07}.png", 1000) for number in range(20_000))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(packed) == 20_000
    assert taken < 20_000 * 20  # the path alone has more than 40 characters
