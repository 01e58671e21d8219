"""Batches of bytes from another engine: one row for each, and the model opened once."""

import hashlib

import numpy as np
import pytest

import nightread
from nightread import batches
from tests.factories import UNGATED_MODEL, encode_image, small_chest


@pytest.fixture(scope="module")
def contents():
    return [encode_image(small_chest(seed)) for seed in range(5)]


def score(*given, **options):
    return list(nightread.score_batches(given, model=UNGATED_MODEL, device="cpu", threads=1, **options))


def test_rows_are_those_of_the_files(contents, tmp_path):
    paths = []
    for number, content in enumerate(contents):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(content)
    (rows,) = score({"id": list("abcde"), "bytes": contents})
    expected = list(nightread.open_model(UNGATED_MODEL, device="cpu", threads=1).predict(paths))
    assert rows["id"] == list("abcde")
    assert rows["status"] == ["scored"] * 5
    assert rows["score_pneumonia"] == pytest.approx([row.scores["pneumonia"] for row in expected], abs=1e-6)
    assert rows["decision_pneumonia"] == [row.decisions["pneumonia"] for row in expected]
    assert rows["sha256"] == [hashlib.sha256(content).hexdigest() for content in contents]
    assert rows["model"] == [UNGATED_MODEL] * 5
    assert len({len(column) for column in rows.values()}) == 1


def test_a_fault_of_a_scan_is_a_row(contents):
    (rows,) = score({"id": [1, 2, 3, 4], "bytes": [b"", b"no scan", contents[0][:200], contents[1]]})
    assert rows["status"] == ["rejected", "rejected", "rejected", "scored"]
    assert rows["reason"][:2] == ["empty-file", "not-an-image"]
    assert rows["score_pneumonia"][:3] == [None] * 3
    assert all(rows["text"][:3])


def test_columns_may_be_numpy_arrays_and_batches_empty(contents):
    filled = {"id": np.array([7, 8]), "bytes": np.array(contents[:2], dtype=object)}
    first, second = score(filled, {"id": [], "bytes": []})
    assert first["status"] == ["scored", "scored"]
    assert second["status"] == []


def test_a_process_opens_a_model_once(contents):
    batches._open_once.cache_clear()
    for _ in range(3):
        score({"id": [1], "bytes": contents[:1]})
    assert batches._open_once.cache_info().misses == 1


@pytest.mark.parametrize(
    ("batch", "said"),
    [({"bytes": []}, "the column 'id'"), ({"id": []}, "the column 'bytes'"), ({"id": [1], "bytes": []}, "1 ids and 0")],
)
def test_an_incomplete_batch_is_refused_in_one_sentence(batch, said):
    with pytest.raises(ValueError, match=said):
        score(batch)


@pytest.mark.parametrize("content", [3, None, "x.png"])
def test_a_content_that_is_not_bytes_is_refused(content):
    with pytest.raises(TypeError, match="a content is a"):
        score({"id": [1], "bytes": [content]})


def test_a_single_batch_is_refused_rather_than_its_columns(contents):
    with pytest.raises(TypeError, match="put it into a list"):
        next(nightread.score_batches({"id": [1], "bytes": contents[:1]}, model=UNGATED_MODEL))
