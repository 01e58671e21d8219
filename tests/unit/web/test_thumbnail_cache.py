"""Thumbnails on disk."""

import os
import stat

import pytest

from web.thumbnail_cache import ThumbnailCache

DIGESTS = [f"{number:064x}" for number in range(6)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "thumbnails"


def test_a_thumbnail_is_kept_for_its_owner_alone(folder):
    ThumbnailCache(folder, 1000).keep(DIGESTS[0], b"picture")
    assert ThumbnailCache(folder, 1000).find(DIGESTS[0]) == b"picture"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]


def test_the_least_recently_used_thumbnails_go_when_the_bound_is_reached(folder):
    cache = ThumbnailCache(folder, 400)
    for age, digest in enumerate(DIGESTS[:4]):
        cache.keep(digest, bytes(100))
        os.utime(folder / f"{digest}.webp", (1000 + age, 1000 + age))
    assert cache.find(DIGESTS[0]) is not None  # used just now
    cache.keep(DIGESTS[4], bytes(100))
    assert [digest for digest in DIGESTS if cache.find(digest) is not None] == [DIGESTS[0], *DIGESTS[3:5]]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 400


def test_what_was_kept_by_an_earlier_process_counts(folder):
    ThumbnailCache(folder, 1000).keep(DIGESTS[0], bytes(900))
    os.utime(folder / f"{DIGESTS[0]}.webp", (1000, 1000))
    cache = ThumbnailCache(folder, 1000)
    cache.keep(DIGESTS[1], bytes(500))
    assert cache.find(DIGESTS[0]) is None
    assert cache.find(DIGESTS[1]) is not None


@pytest.mark.parametrize("most_bytes", [0, 3])
def test_a_thumbnail_beyond_the_bound_is_not_kept(folder, most_bytes):
    cache = ThumbnailCache(folder, most_bytes)
    cache.keep(DIGESTS[0], b"picture")
    assert cache.find(DIGESTS[0]) is None


def test_a_name_that_is_no_digest_reaches_no_file(folder):
    cache = ThumbnailCache(folder, 1000)
    (folder.parent / "secret.webp").write_bytes(b"secret")
    cache.keep("../planted", b"picture")
    assert cache.find("../secret") is None
    assert sorted(file.name for file in folder.parent.iterdir()) == ["secret.webp", "thumbnails"]


@pytest.mark.parametrize("plant", ["open", "link", "file"])
def test_a_folder_that_others_might_have_filled_is_not_used(folder, plant, caplog):
    folder.parent.mkdir()
    if plant == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif plant == "link":
        (folder.parent / "other").mkdir(mode=0o700)
        folder.symlink_to(folder.parent / "other")
    else:
        folder.write_bytes(b"")
    cache = ThumbnailCache(folder, 1000)
    cache.keep(DIGESTS[0], b"picture")
    assert cache.find(DIGESTS[0]) is None
    assert "NIGHTREAD_WEB_CACHE_DIR" in caplog.text
