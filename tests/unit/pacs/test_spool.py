import os
import struct

import pytest

from nightread.errors import SettingsError
from pacs.spool import Spool, WrongInstance, is_uid
from tests.factories import small_chest, write_dicom


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool", max_bytes=0, min_free_bytes=0)
    yield spool
    spool.close()


def write(spool, number=1, pixels=None, **fields):
    given = {"SOPInstanceUID": f"1.2.{number}", "StudyInstanceUID": "1.3", "StudyDate": "20261129"} | fields
    return write_dicom(spool.incoming / "tmp.dcm", small_chest() if pixels is None else pixels, **given)


def test_instance_lies_below_the_date_and_uid_of_its_study(spool):
    filed = spool.file(write(spool))
    assert (filed.name, filed.is_new) == ("20261129/1.3/1.2.1.dcm", True)
    assert list(spool.list_instances()) == [filed.name]
    assert list(spool.incoming.iterdir()) == []


def test_instance_that_is_sent_again_is_there_already(spool):
    spool.file(write(spool))
    assert not spool.file(write(spool)).is_new
    assert len(list(spool.list_instances())) == 1


def test_other_bytes_under_the_same_uid_are_kept_beside_the_first(spool):
    first = spool.file(write(spool))
    second = spool.file(write(spool, pixels=small_chest(1)))
    assert second.is_new
    assert second.name.startswith("20261129/1.3/1.2.1-")
    assert not spool.file(write(spool, pixels=small_chest(1))).is_new
    assert sorted(spool.list_instances()) == sorted([first.name, second.name])


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "1.2/3", "1..2", "1.2.", "CANARY", "1." + "2" * 64, "01.2"])
def test_what_is_no_uid_is_refused_without_being_quoted(spool, uid):
    assert not is_uid(uid)
    with pytest.raises(WrongInstance) as refused:
        spool.file(write(spool, StudyInstanceUID=uid))
    assert not uid or uid not in str(refused.value)
    assert list(spool.list_instances()) == []


@pytest.mark.parametrize("date", ["", "../..", "2026-11-29"])
def test_study_without_a_date_is_undated(spool, date):
    assert spool.file(write(spool, StudyDate=date)).name == "undated/1.3/1.2.1.dcm"


def test_instance_with_another_uid_than_announced_is_refused(spool):
    with pytest.raises(WrongInstance, match="announced"):
        spool.file(write(spool), "1.2.99")


def test_file_of_a_killed_process_is_deleted(tmp_path, spool):
    write(spool)
    spool.close()
    reopened = Spool(tmp_path / "spool", max_bytes=0, min_free_bytes=0)
    assert list(reopened.incoming.iterdir()) == []
    reopened.close()


def test_file_of_an_association_that_broke_off_is_deleted_once_it_is_old(spool):
    left, arriving = spool.incoming / "left.dcm", spool.incoming / "arriving.dcm"
    for file in (left, arriving):
        file.write_bytes(b"CANARY")
    os.utime(left, (0, 0))
    spool.clean_incoming()
    assert list(spool.incoming.iterdir()) == [arriving]


def test_instance_of_very_many_empty_items_is_refused_before_they_are_all_read(spool):
    written = write(spool)
    data = written.read_bytes()
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 10**5 + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    study = data.index(struct.pack("<HH", 0x0020, 0x000D))
    written.write_bytes(data[:study] + sequence + items + data[study:])
    with pytest.raises(WrongInstance, match="too many attributes"):
        spool.file(written)


def test_one_process_has_it_open(tmp_path, spool):
    with pytest.raises(SettingsError, match="another process"):
        Spool(tmp_path / "spool", max_bytes=0, min_free_bytes=0)


def test_is_full_at_its_size_and_at_the_free_space_of_the_disk(tmp_path):
    small = Spool(tmp_path / "small", max_bytes=20_000, min_free_bytes=0)
    assert not small.is_full
    name = small.file(write(small)).name
    assert not small.is_full
    small.file(write(small, 2))
    assert small.is_full
    small.remove(name)
    assert not small.is_full
    small.close()
    reopened = Spool(tmp_path / "small", max_bytes=15_000, min_free_bytes=0)
    assert reopened.is_full, "the instances of the process before count"
    reopened.close()
    tight = Spool(tmp_path / "tight", max_bytes=0, min_free_bytes=2**62)
    assert tight.is_full
    tight.close()
