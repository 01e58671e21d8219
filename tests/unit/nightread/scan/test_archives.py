"""Scans in zip and tar archives, and archives that are made to do harm."""

import bz2
import gzip
import io
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nightread.errors import ScanError, StorageError
from nightread.inference.content import read_content
from nightread.reasons import Reason
from nightread.scan import archive_source, archives
from nightread.scan.archives import read_member, split_path
from nightread.scan.entry import Skip
from nightread.scan.files import decode_path, encode_path
from nightread.scan.walk import Walk, find_scans
from nightread.scan.zip_names import ZipSource
from tests import factories
from tests.archives import write_tar, write_zip

JPEG = factories.encode_jpeg()
DICOM = factories.encode_dicom()
NOISE = np.random.default_rng(0).bytes(200_000)
MAX_BYTES = 10**7


def listed(folder, walk=None):
    """Return (reason, text) by path below the folder."""
    found = list(find_scans([folder], walk or Walk(), roots=[folder], archives=True))
    rows = {os.path.relpath(one.path, folder): (one.reason, one.text) for one in found}
    assert len(rows) == len(found)
    return rows


def reasons(folder):
    return {path: reason for path, (reason, _) in listed(folder).items()}


def read(path, name, root=None, **limits):
    return read_member(str(path), name, roots=[root or path.parent], max_bytes=limits.get("max_bytes", MAX_BYTES))


WARD = [("ward/1.dcm", DICOM), ("ward/2.jpg", JPEG), ("notes.txt", b"text"), ("DICOMDIR", DICOM), (".hidden.jpg", JPEG)]
WRITERS = {
    "night.zip": write_zip,
    "stored.zip": lambda path, members: write_zip(path, members, zipfile.ZIP_STORED),
    "night.tar": write_tar,
    "night.tar.gz": lambda path, members: write_tar(path, members, "w:gz"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_scans_of_an_archive_are_found_and_read(tmp_path, name):
    path = WRITERS[name](tmp_path / name, WARD)
    walk = Walk()
    assert listed(tmp_path, walk) == {f"{name}!ward/1.dcm": (None, ""), f"{name}!ward/2.jpg": (None, "")}
    assert walk.skipped == {Skip.NOT_A_SCAN: 2, Skip.HIDDEN: 1}
    assert (read(path, "ward/1.dcm"), read(path, "ward/2.jpg")) == (DICOM, JPEG)
    content = read_content(f"{path}!ward/2.jpg", [tmp_path], MAX_BYTES, archives=True)
    assert (content.data, content.reason) == (JPEG, None)


@pytest.mark.parametrize("name", WRITERS)
def test_many_threads_read_one_archive_in_any_order(tmp_path, name, monkeypatch):
    monkeypatch.setattr(archive_source, "_MARK_BYTES", 100_000)
    contents = {f"{number}.jpg": JPEG + bytes([number]) * 50_000 for number in range(20)}
    path = WRITERS[name](tmp_path / name, [("noise", NOISE), *contents.items()])
    order = [*contents, *reversed(contents)] * 2
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: read(path, one), order)) == [contents[one] for one in order]


def test_without_archives_an_archive_is_one_row_that_names_the_option(tmp_path):
    path = write_zip(tmp_path / "night.zip", WARD)
    (found,) = find_scans([tmp_path], Walk(), roots=[tmp_path])
    assert found.path == str(path)
    assert read_content(f"{path}!ward/2.jpg", [tmp_path], MAX_BYTES).reason is Reason.MISSING_FILE


def test_an_archive_outside_the_roots_is_not_opened(tmp_path):
    path = write_zip(tmp_path / "night.zip", WARD)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.zip").symlink_to(path)
    assert reasons(inside) == {"link.zip": Reason.OUTSIDE_ROOTS}
    with pytest.raises(ScanError) as caught:
        read(path, "ward/2.jpg", root=inside)
    assert caught.value.reason is Reason.OUTSIDE_ROOTS


class TestPaths:
    def test_the_first_file_before_an_exclamation_mark_is_the_archive(self, tmp_path):
        path = write_zip(tmp_path / "a!b.zip", [("c!d.jpg", JPEG)])
        assert split_path(f"{path}!c!d.jpg") == (str(path), "c!d.jpg")
        assert split_path(str(path)) is None
        assert split_path(f"{tmp_path}/none!c") is None

    def test_a_file_with_the_path_of_a_member_wins_and_the_member_gets_a_row(self, tmp_path):
        write_zip(tmp_path / "night.zip", [("1.jpg", JPEG)])
        (tmp_path / "night.zip!1.jpg").write_bytes(JPEG)
        assert split_path(f"{tmp_path}/night.zip!1.jpg") is None
        assert reasons(tmp_path) == {"night.zip!1.jpg": None, "night.zip!1.jpg#": Reason.UNSUPPORTED_FORMAT}

    @pytest.mark.parametrize("name", ["../../etc/1.jpg", "/etc/1.jpg", "a/../../1.jpg", "..\\1.jpg", "C:\\1.jpg"])
    @pytest.mark.parametrize("archive", ["night.zip", "night.tar"])
    def test_a_name_that_leads_out_is_refused(self, tmp_path, archive, name):
        path = WRITERS[archive](tmp_path / archive, [(name, JPEG), ("2.jpg", JPEG)])
        rows = {f"{found.path}": found.reason for found in find_scans([path], Walk(), roots=[path], archives=True)}
        assert rows == {f"{path}!{name}": Reason.OUTSIDE_ROOTS, f"{path}!2.jpg": None}
        with pytest.raises(ScanError, match="leads out"):
            read(path, name)

    def test_members_of_one_name_are_refused(self, tmp_path):
        write_tar(tmp_path / "night.tar", [("1.jpg", JPEG), ("1.jpg", DICOM), ("1.jpg#2", JPEG)])
        refused = Reason.UNSUPPORTED_FORMAT
        assert reasons(tmp_path) == {
            "night.tar!1.jpg#1": refused, "night.tar!1.jpg#2#": refused, "night.tar!1.jpg#2": None,
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["x" * 501 + ".jpg", "\N{GRINNING FACE}" * 600, "a\0b.jpg"])
    def test_a_name_that_no_database_holds_is_cut(self, tmp_path, name):
        write_tar(tmp_path / "night.tar", [(name, JPEG)])
        ((path, reason),) = reasons(tmp_path).items()
        if "\0" not in name:  # which ends the name in a header
            assert reason is Reason.UNSUPPORTED_FORMAT
        assert len(path) < 250
        assert "\0" not in path


class TestNamesInZip:
    """Names are bytes; `zipfile` writes what it reads, so the bytes are put in afterwards."""

    @pytest.mark.parametrize(("stored", "is_flagged", "shown"), [
        (b"R\xf6ntgen.jpg", True, "R\udcf6ntgen.jpg"),  # as a file of this name
        ("R\xf6ntgen.jpg".encode(), True, "R\xf6ntgen.jpg"),
        ("R\xf6ntgen.jpg".encode(), False, "R\xf6ntgen.jpg"),  # as of the Finder
        ("R\xf6ntgen.jpg".encode("cp437"), False, "R\xf6ntgen.jpg"),
        ("\u8868.jpg".encode("shift-jis"), False, "\xf2\\.jpg"),  # its second byte is a backslash
    ])  # fmt: skip
    def test_a_name_of_any_encoding_is_read_beside_the_others(self, tmp_path, stored, is_flagged, shown):
        path = write_zip(tmp_path / "night.zip", [("1.jpg", JPEG), ("N" * len(stored), DICOM)])
        data = bytearray(path.read_bytes().replace(b"N" * len(stored), stored))
        for magic, name_at, flags_at in ((b"PK\1\2", 46, 9), (b"PK\3\4", 30, 7)):
            data[data.index(stored, data.rindex(magic)) - name_at + flags_at] |= is_flagged << 3
        path.write_bytes(data)
        assert reasons(tmp_path) == {"night.zip!1.jpg": None, f"night.zip!{shown}": None}
        assert (read(path, "1.jpg"), read(path, shown)) == (JPEG, DICOM)
        (found,) = (
            found for found in find_scans([path], Walk(), roots=[path], archives=True) if "1.jpg" not in found.path
        )
        assert decode_path(encode_path(found.path)) == found.path

    @pytest.mark.parametrize("extra", [
        struct.pack("<HH", 0x7777, 50) + b"xx", b"xyz", struct.pack("<HHBL", 0x7075, 7, 1, 0) + b"\xff\xff",
        struct.pack("<HHQQ", 1, 16, 2**20, 2**20),
    ])  # fmt: skip
    def test_an_extra_field_that_cannot_be_read_has_no_say(self, tmp_path, extra):
        path = write_zip(tmp_path / "night.zip", [("1.jpg", JPEG), ("2.jpg", DICOM)])
        data = bytearray(path.read_bytes())
        entry, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
        data[entry + 30 : entry + 32] = struct.pack("<H", len(extra))
        data[entry + 51 : entry + 51] = extra
        data[end + len(extra) + 12 : end + len(extra) + 16] = struct.pack("<L", end + len(extra) - entry)
        path.write_bytes(data)
        assert reasons(tmp_path) == {"night.zip!1.jpg": None, "night.zip!2.jpg": None}
        assert (read(path, "1.jpg"), read(path, "2.jpg")) == (JPEG, DICOM)

    def test_a_member_that_holds_a_header_is_read_as_it_is(self, tmp_path):
        inner = write_zip(tmp_path / "night.zip", [("R\xf6n", b"")]).read_bytes()
        headers = [inner, inner[:30], inner[inner.index(b"PK\1\2") :]]
        path = write_zip(
            tmp_path / "night.zip", [(f"{n}.jpg", one) for n, one in enumerate(headers)], zipfile.ZIP_STORED
        )
        assert [read(path, f"{n}.jpg") for n in range(3)] == headers


class TestNamedArchives:
    def test_a_directory_takes_time_by_its_length(self):
        entry = bytearray(46) + b"name"
        entry[:4], entry[28:30] = b"PK\1\2", struct.pack("<H", 4)
        source = ZipSource(io.BytesIO(entry * 100_000))
        begun = time.process_time()
        source.read()
        assert len(source.names) == 100_000
        assert time.process_time() - begun < 5  # it took eleven while each entry copied them all

    @pytest.mark.parametrize("before", [b"MZ" + b"\x90\0" * 5000, b"\r\n", b"PK00"])
    def test_a_zip_archive_may_begin_anywhere(self, tmp_path, before):
        path = tmp_path / "night.zip"
        path.write_bytes(before + write_zip(path, WARD).read_bytes())
        assert set(reasons(tmp_path)) == {"night.zip!ward/1.dcm", "night.zip!ward/2.jpg"}
        assert read(path, "ward/2.jpg") == JPEG

    def test_a_program_is_not_looked_into(self, tmp_path):
        path = tmp_path / "viewer.exe"
        path.write_bytes(b"MZ" + write_zip(path, WARD).read_bytes())
        walk = Walk()
        assert listed(tmp_path, walk) == {}
        assert walk.skipped == {Skip.NOT_A_SCAN: 1}

    @pytest.mark.parametrize("suffix", ["zip", "ZIP", "tar", "tgz", "tar.gz", "7z", "rar", "jp2", "JXL"])
    @pytest.mark.parametrize("content", [b"", b"text" * 200, b"\0" * 99 + b"text" * 200])
    def test_a_damaged_archive_or_picture_is_a_row(self, tmp_path, suffix, content):
        (tmp_path / f"night.{suffix}").write_bytes(content)
        assert set(reasons(tmp_path)) == {f"night.{suffix}"}
        (found,) = find_scans([tmp_path], Walk(), roots=[tmp_path])
        assert found.size_bytes == len(content)


class TestRefusedMembers:
    def test_an_encrypted_member_is_named(self, tmp_path):
        path = write_zip(tmp_path / "night.zip", [("1.jpg", JPEG), ("2.jpg", JPEG)])
        data = bytearray(path.read_bytes())
        for magic, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
            data[data.find(magic) + at] |= 1
        path.write_bytes(data)
        rows = listed(tmp_path)
        assert rows["night.zip!1.jpg"][0] is Reason.UNSUPPORTED_FORMAT
        assert "encrypted" in rows["night.zip!1.jpg"][1]
        assert rows["night.zip!2.jpg"][0] is None

    @pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_other_compressions_are_named(self, tmp_path, compression):
        write_zip(tmp_path / "night.zip", [("1.jpg", JPEG)], compression)
        ((reason, text),) = listed(tmp_path).values()
        assert reason is Reason.UNSUPPORTED_FORMAT
        assert "compression" in text

    def test_links_and_devices_are_skipped(self, tmp_path):
        with tarfile.open(tmp_path / "night.tar", "w") as file:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
                info = tarfile.TarInfo(f"{kind.decode()}.jpg")
                info.type, info.linkname = kind, "/etc/passwd"
                file.addfile(info)
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        with zipfile.ZipFile(tmp_path / "night.zip", "w") as file:
            file.writestr(link, "/etc/passwd")
        walk = Walk()
        assert listed(tmp_path, walk) == {}
        assert walk.skipped == {Skip.SPECIAL: 5}

    def test_an_archive_in_an_archive_is_one_row(self, tmp_path):
        inner = write_zip(tmp_path / "inner.zip", [("1.jpg", JPEG)]).read_bytes()
        (tmp_path / "inner.zip").unlink()
        write_tar(tmp_path / "night.tar", [("inner.zip", inner), ("2.jpg", JPEG)])
        rows = listed(tmp_path)
        assert rows.pop("night.tar!2.jpg") == (None, "")
        reason, text = rows.pop("night.tar!inner.zip")
        assert (reason, rows) == (Reason.UNSUPPORTED_FORMAT, {})
        assert "a zip archive in an archive" in text

    def test_a_member_whose_bytes_are_damaged_is_damaged_alone(self, tmp_path):
        path = write_zip(tmp_path / "night.zip", [("1.jpg", NOISE), ("2.jpg", JPEG)], zipfile.ZIP_STORED)
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
        with pytest.raises(ScanError) as caught:
            read(path, "1.jpg")
        assert caught.value.reason is Reason.DAMAGED
        assert read(path, "2.jpg") == JPEG

    def test_empty_and_large_members_are_refused_before_they_are_read(self, tmp_path):
        path = write_zip(tmp_path / "night.zip", [("0.jpg", b""), ("1.jpg", JPEG)])
        for name, reason in (("0.jpg", Reason.EMPTY_FILE), ("1.jpg", Reason.TOO_LARGE)):
            with pytest.raises(ScanError) as caught:
                read(path, name, max_bytes=100)
            assert caught.value.reason is reason

    def test_a_member_that_is_gone_may_come_back(self, tmp_path):
        path = write_zip(tmp_path / "night.zip", [("1.jpg", JPEG)])
        with pytest.raises(StorageError) as caught:
            read(path, "2.jpg")
        assert caught.value.reason is Reason.MISSING_FILE
        write_zip(path, [("1.jpg", JPEG), ("2.jpg", DICOM)])
        assert read(path, "2.jpg") == DICOM

    def test_an_empty_archive_is_no_damage(self, tmp_path):
        write_zip(tmp_path / "night.zip", [])
        write_tar(tmp_path / "night.tar", [])
        assert listed(tmp_path) == {}

    @pytest.mark.parametrize("name", ["night.zip", "night.tar"])
    def test_an_empty_member_is_a_row_only_if_its_name_claims_a_scan(self, tmp_path, name):
        WRITERS[name](tmp_path / name, [("1.jpg", b""), ("2.txt", b"")])
        walk = Walk()
        assert set(listed(tmp_path, walk)) == {f"{name}!1.jpg"}
        assert walk.skipped == {Skip.NOT_A_SCAN: 1}

    def test_an_office_document_is_one_row(self, tmp_path):
        write_zip(tmp_path / "report.docx", [("[Content_Types].xml", b"<x/>"), ("word/media/1.png", JPEG)])
        assert reasons(tmp_path) == {"report.docx": Reason.UNSUPPORTED_FORMAT}

    @pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
    def test_other_compressed_files_stay_one_row(self, tmp_path, compress):
        (tmp_path / "1.dcm.gz").write_bytes(compress(DICOM))
        assert set(listed(tmp_path)) == {"1.dcm.gz"}


class TestHostileArchives:
    @pytest.mark.parametrize("name", ["night.zip", "night.tar", "night.tar.gz"])
    def test_an_archive_that_is_cut_keeps_what_can_be_read(self, tmp_path, name):
        members = [(f"{number}.jpg", JPEG + NOISE) for number in range(5)]
        path = WRITERS[name](tmp_path / name, members)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        rows = reasons(tmp_path)
        assert rows[name if name != "night.tar" else "night.tar!2.jpg"] is Reason.DAMAGED
        if name != "night.zip":  # whose directory is at its end
            assert rows[f"{name}!0.jpg"] is None
            assert read(path, "0.jpg") == JPEG + NOISE

    @pytest.mark.parametrize("name", WRITERS)
    def test_any_damage_ends_in_rows(self, tmp_path, name):
        whole = WRITERS[name](tmp_path / name, [(f"{number}.jpg", JPEG[:700]) for number in range(3)]).read_bytes()
        random = np.random.default_rng(1)
        for _ in range(150):
            data = bytearray(whole)
            for place in random.integers(0, len(data), 4):
                data[place] = random.integers(0, 256)
            (tmp_path / name).write_bytes(data)
            for found in find_scans([tmp_path], Walk(), roots=[tmp_path], archives=True):
                read_content(found.path, [tmp_path], MAX_BYTES, archives=True)

    @pytest.mark.parametrize("name", ["night.zip", "night.tar.gz"])
    def test_an_archive_that_inflates_to_far_more_than_its_size_is_refused(self, tmp_path, name, monkeypatch):
        monkeypatch.setattr(archive_source, "_ALWAYS_BYTES", 2**20)
        WRITERS[name](tmp_path / name, [("1.jpg", JPEG), ("2.jpg", bytes(40 * 2**20)), ("3.jpg", JPEG)])
        rows = listed(tmp_path)
        assert rows[name][0] is Reason.TOO_LARGE
        assert "100 times" in rows[name][1]

    def test_members_that_share_their_bytes_are_refused(self, tmp_path):
        """An overlapping zip bomb: many entries of the directory lead to one member."""
        path = write_zip(tmp_path / "night.zip", [("1.jpg", bytes(10**6))])
        data = path.read_bytes()
        directory = data.find(b"PK\1\2")
        entry = data[directory : data.find(b"PK\5\6")]
        many = b"".join(entry.replace(b"1.jpg", b"%05d" % number) for number in range(1000))
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(many), directory, 0)
        path.write_bytes(data[:directory] + many + end)
        assert reasons(tmp_path) == {"night.zip": Reason.TOO_LARGE}

    def test_too_many_members_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archives, "MOST_MEMBERS", 5)
        for name, write in WRITERS.items():
            write(tmp_path / name, [(f"{number}.jpg", JPEG) for number in range(6)])
        rows = listed(tmp_path)
        assert {rows[name][0] for name in WRITERS} == {Reason.TOO_LARGE}
        assert len(rows) == 4 + 2 * 5  # a tar archive is read up to there

    @pytest.mark.parametrize("kind", [b"x", b"L", b"g"])
    def test_a_header_that_declares_gigabytes_takes_no_memory(self, tmp_path, kind):
        info = tarfile.TarInfo("1.jpg")
        info.type, info.size = kind, 2 * 10**9
        path = tmp_path / "night.tar"
        with path.open("wb") as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.truncate(2 * 10**9 + 10_000)
        tracemalloc.start()
        assert reasons(tmp_path) == {"night.tar": Reason.TOO_LARGE}
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
        tracemalloc.stop()

    def test_headers_that_lead_back_end(self, tmp_path):
        info = tarfile.TarInfo("1.jpg")
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[124:136] = b"\xff" + (-1024).to_bytes(11, "big", signed=True)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        (tmp_path / "night.tar").write_bytes(bytes(header) * 2 + bytes(1024))
        begun = time.monotonic()
        assert reasons(tmp_path) == {"night.tar": Reason.DAMAGED}
        assert time.monotonic() - begun < 5

    def test_a_sparse_member_is_skipped(self, tmp_path):
        headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "1.jpg",
                   "GNU.sparse.size": str(2**40), "GNU.sparse.map": "0,512"}  # fmt: skip
        with tarfile.open(tmp_path / "night.tar", "w", format=tarfile.PAX_FORMAT) as file:
            info = tarfile.TarInfo("1.jpg")
            info.size, info.pax_headers = 512, headers
            file.addfile(info, io.BytesIO(bytes(512)))
        walk = Walk()
        assert listed(tmp_path, walk) == {}
        assert walk.skipped == {Skip.SPECIAL: 1}

    def test_streams_of_gzip_that_follow_each_other_are_one_archive(self, tmp_path):
        plain = write_tar(tmp_path / "night.tar", [("1.jpg", JPEG), ("2.jpg", NOISE)]).read_bytes()
        (tmp_path / "night.tar").unlink()
        path = tmp_path / "night.tgz"
        path.write_bytes(
            b"".join(gzip.compress(plain[at : at + 7000]) for at in range(0, len(plain), 7000)) + bytes(99)
        )
        assert reasons(tmp_path) == {"night.tgz!1.jpg": None, "night.tgz!2.jpg": None}
        assert (read(path, "2.jpg"), read(path, "1.jpg")) == (NOISE, JPEG)
