"""Addresses of objects: what is one, what is refused, and that they pass for paths below roots."""

from pathlib import Path

import pytest

from nightread.errors import SettingsError
from nightread.inference.content import read_content
from nightread.reasons import Reason
from nightread.scan.files import find_root
from nightread.scan.object_address import ObjectAddress, is_address, read_address, spell_address, split_roots
from nightread.scan.path_map import PathMap
from nightread.settings import check_roots, read_settings
from nightread.text import hide_password


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://night/2026/a.dcm", ObjectAddress("s3", "night", "2026/a.dcm")),
        ("s3:/night/2026", ObjectAddress("s3", "night", "2026")),  # as a Path spells it
        ("gs://night/", ObjectAddress("gs", "night", "")),
        ("az://night.a_b/Hals Rö%.png/", ObjectAddress("az", "night.a_b", "Hals Rö%.png")),
    ],
)
def test_an_address_has_scheme_bucket_and_key(text, address):
    assert is_address(text)
    assert read_address(text) == read_address(Path(text)) == read_address(str(address)) == address
    assert spell_address(Path(text)) == str(address)


@pytest.mark.parametrize("path", ["/scans/s3://night", "scans", "C:/scans", "s3", "/", "./a:/b"])
def test_a_local_path_is_none(path):
    assert not is_address(path)
    assert read_address(path) is None
    assert spell_address(path) == path


@pytest.mark.parametrize(
    "text",
    [
        "https://night.s3.amazonaws.com/a.dcm?X-Amz-Signature=SECRET", "s3://night/a.dcm?X-Amz-Signature=SECRET",
        "az://night/a?sv=1&sig=SECRET", "s3://KEY:SECRET@night/a", "s3a://SECRET/a", "s3://night/a#SECRET", "s3://",
        "s3:///SECRET", "s3://night/../SECRET", "s3://night/a//SECRET", "s3://night/./SECRET", "s3://night/\udcff/SECRET",
        "S3://KEY:SECRET@night/a", "HTTPS://night.s3.amazonaws.com/a.dcm?X-Amz-Signature=SECRET",
    ],
)  # fmt: skip
def test_what_may_hold_a_secret_or_lead_elsewhere_is_refused_without_being_shown(text):
    with pytest.raises(ValueError, match=r"write|leave") as refused:
        read_address(text)
    assert "SECRET" not in str(refused.value)


def test_a_root_that_is_such_an_address_is_refused():
    for text in (
        "/scans:https://night.s3.amazonaws.com/?X-Amz-Signature=SECRET",
        "s3://night?SECRET:/scans",
        "S3://SECRET",
    ):
        with pytest.raises(SettingsError) as wrong:
            read_settings(scan_roots=text)
        assert "SECRET" not in str(wrong.value)


def test_the_redactor_hides_what_an_address_may_hold():
    for text in (
        "https://night.s3.amazonaws.com/a?X-Amz-Signature=SECRET",
        "s3://KEY:SECRET@night/a",
        "az://n/a?sig=SECRET",
    ):
        assert "SECRET" not in hide_password(text)


def test_roots_hold_folders_and_addresses():
    assert split_roots("/scans:s3://night/2026:/more::gs://other") == [
        "/scans",
        "s3://night/2026",
        "/more",
        "gs://other",
    ]
    roots = read_settings(scan_roots="/tmp:s3://night/2026").scan_roots
    assert find_root("s3://night/2026/a.dcm", roots) == roots[1]
    assert find_root("s3://night/20261/a.dcm", roots) is None
    assert find_root("gs://night/2026/a.dcm", roots) is None
    assert find_root("/night/2026/a.dcm", roots) is None
    check_roots(read_settings(scan_roots="s3://night/2026"))


def test_an_object_outside_the_roots_is_not_asked_for():
    for roots in ([Path("/")], [Path("s3://night/other")]):
        assert read_content("s3://night/2026/a.dcm", roots, 100).reason is Reason.OUTSIDE_ROOTS
    assert read_content("s3://night/2026/../a.dcm", [Path("s3:")], 100).reason is Reason.NOT_A_FILE
    assert read_content("s3://night", [Path("s3:")], 100).reason is Reason.NOT_A_FILE


def test_an_address_is_the_same_on_every_host():
    assert PathMap.read("/scans=/mnt").to_local("s3://scans/a") == "s3://scans/a"
