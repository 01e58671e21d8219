"""The pipeline accounts for every scan, whatever its file holds, and scores each content once."""

import hashlib
import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.jobs import OpenScan
from db.types import ScanStatus
from nightread.inference import content as content_module
from nightread.inference.batch_tuner import BatchTuner
from nightread.inference.scorer import Inferred
from nightread.reasons import Reason
from nightread.scan.files import encode_path
from tests.factories import CANARY, encode_dicom, encode_jpeg, encode_png16, small_chest
from worker.decoder.decoder import Decoder
from worker.decoder.sandbox import IsolationLimits
from worker.errors import LeaseLost
from worker.jobs import pipeline
from worker.jobs.pipeline import Limits, end_without_score, score_scans, split_windows

MAX_BYTES = 100_000
PATH_CANARY = "canary-folder"


class FakeScorer:
    """Scores a scan by its mean, and records the requests."""

    provider, device, runtime, digest = "FakeProvider", "cpu", "fake 1", "d" * 64

    def __init__(self, card, score=None, sizes=(1, 2)):
        self.card = card
        self.batches = []
        self.tuner = BatchTuner(sizes)
        self._score = score or (lambda tensor: float(tensor.mean()))

    def infer_batch(self, batch):
        self.batches.append(len(batch))
        return Inferred(np.array([[self._score(tensor)] for tensor in batch], np.float32))


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder(2, IsolationLimits(60, 1_000_000, MAX_BYTES))
    yield decoder
    decoder.close()


@pytest.fixture
def scorer(shipped):
    return FakeScorer(shipped.card)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of each kind, in a folder whose name must not appear in messages."""
    folder = tmp_path_factory.mktemp(PATH_CANARY)
    jpeg = encode_jpeg(small_chest(1))
    for name, content in {
        "one": jpeg, "copy-of-one": jpeg, "two": encode_png16(small_chest(2)), "three": encode_jpeg(small_chest(3)),
        "dicom": encode_dicom(small_chest(4)), "truncated": jpeg[: len(jpeg) // 2], "text": b"no image\n", "empty": b"",
        "large": b"\xff\xd8\xff" + bytes(MAX_BYTES),
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "emptied").touch()
    (folder / "link-out").symlink_to("/etc/hostname")
    return folder


#: What becomes of each: a content's digest where it is scored, else a reason.
EXPECTED = {
    "one": "one", "copy-of-one": "one", "two": "two", "three": "three", "dicom": "dicom",
    "truncated": Reason.DAMAGED, "text": Reason.NOT_AN_IMAGE, "empty": Reason.EMPTY_FILE, "large": Reason.TOO_LARGE,
    "fifo": Reason.NOT_A_FILE, "link-out": Reason.OUTSIDE_ROOTS, "missing": None, "folder": Reason.STORAGE_ERROR,
    "emptied": None,
}  # fmt: skip


def list_scans(folder, names):
    """Return rows that the folder walk made when all files but one held something."""
    return [OpenScan(number, encode_path(folder / name), 10 * (name != "empty")) for number, name in enumerate(names)]


def digest_of(folder, name):
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def run(folder, names, scorer, decoder, *, batch_size=4, by_threads=False, known=(), check_lease=lambda: None):
    return score_scans(
        list_scans(folder, names), scorer, Limits([folder], MAX_BYTES, batch_size, by_threads), decoder=decoder,
        find_stored=lambda digests: (set(digests) & set(known), {}, {}),
        check_lease=check_lease, worker="worker-1",
    )  # fmt: skip


def test_each_kind_of_file_ends_as_it_should(folder, scorer, decoder):
    result = run(folder, EXPECTED, scorer, decoder)
    names = list(EXPECTED)
    ended = {names[outcome.scan_id]: outcome for outcome in result.outcomes}
    for name, outcome in ended.items():
        if outcome.status is ScanStatus.SCORED:
            assert outcome.sha256 == digest_of(folder, EXPECTED[name])
            assert outcome.reason_code is None
        else:
            assert outcome.reason_code == EXPECTED[name]
            assert outcome.status is (ScanStatus.FAILED if name == "folder" else ScanStatus.REJECTED)
    assert {names[scan.id]: reason for scan, reason, _ in result.put_off} == {
        "missing": Reason.MISSING_FILE, "emptied": Reason.STILL_CHANGING,
    }  # fmt: skip


@given(
    names=st.lists(st.sampled_from(sorted(EXPECTED)), max_size=14), batch_size=st.integers(1, 6),
    by_threads=st.booleans(), known=st.booleans(),
)  # fmt: skip
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_scan_has_one_outcome_and_every_new_content_one_prediction(
    folder, shipped, decoder, names, batch_size, by_threads, known
):
    scorer = FakeScorer(shipped.card)
    stored = {digest_of(folder, "two")} if known else set()
    result = run(folder, names, scorer, decoder, batch_size=batch_size, by_threads=by_threads, known=stored)
    ended = [outcome.scan_id for outcome in result.outcomes] + [scan.id for scan, _, _ in result.put_off]
    assert sorted(ended) == list(range(len(names)))
    assert all(batch <= (min(batch_size, 2) if by_threads else batch_size) for batch in scorer.batches)

    contents = {name for name in map(EXPECTED.get, names) if name in EXPECTED}
    new = {digest_of(folder, name) for name in contents} - stored
    assert sorted(prediction.sha256 for prediction in result.predictions) == sorted(new)
    assert sum(scorer.batches) == len(new)

    seen = set(stored)
    for outcome in sorted(result.outcomes, key=lambda outcome: outcome.scan_id):
        if outcome.status is ScanStatus.SCORED:
            assert outcome.reused == (outcome.sha256 in seen)
            seen.add(outcome.sha256)
            assert (outcome.study_uid is not None) == (names[outcome.scan_id] == "dicom")


def read_windows(folder, names, scorer, decoder, window_bytes, monkeypatch):
    monkeypatch.setattr(pipeline, "_WINDOW_BYTES", window_bytes)
    limits = Limits([folder], 100 * window_bytes, 4, scored_by_threads=False)
    state = pipeline._Pipeline(scorer, limits, decoder, None, worker="worker-1", isolated=False)
    return list(state.read_ahead(list_scans(folder, names)))


def test_files_that_have_grown_since_they_were_listed_are_read_in_windows_of_their_new_size(
    tmp_path, scorer, decoder, monkeypatch
):
    window_bytes = 40_000
    sizes = {"a": 9_000, "b": 30_000, "c": 30_000, "d": 10_000, "e": 90_000, "f": 11_000, "g": 5_000, "h": 35_000}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))  # each was listed with 10 bytes
    windows = read_windows(tmp_path, sizes, scorer, decoder, window_bytes, monkeypatch)
    assert sorted(len(content.data) for window in windows for _, content in window) == sorted(sizes.values())
    for window in windows:
        assert len(window) == 1 or sum(len(content.data) for _, content in window) <= window_bytes


def test_a_file_that_goes_on_growing_is_put_off(tmp_path, scorer, decoder, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(50_000))
    read = pipeline.read_content

    def grow(path, *arguments, **named):
        with Path(path).open("ab") as file:
            file.write(bytes(10_000))
        return read(path, *arguments, **named)

    monkeypatch.setattr(pipeline, "read_content", grow)
    windows = read_windows(tmp_path, ["a"], scorer, decoder, 40_000, monkeypatch)
    ((scan, content),) = [read for window in windows for read in window]
    assert (scan.id, content.data, content.reason) == (0, b"", Reason.STORAGE_ERROR)
    assert "70,000 bytes and was expected to have at most 60,000" in content.text


def test_scores_are_those_of_scoring_one_at_a_time(folder, shipped, decoder):
    names = ["one", "two", "three", "dicom"]
    together = run(folder, names, FakeScorer(shipped.card), decoder, batch_size=4).predictions
    apart = run(folder, names, FakeScorer(shipped.card), decoder, batch_size=1).predictions
    assert {one.sha256: one.score for one in together} == {one.sha256: one.score for one in apart}
    assert {one.batch_size for one in together} == {4}
    assert {one.batch_size for one in apart} == {1}


@pytest.mark.parametrize(("size", "parts"), [(1, [1, 1, 1, 1]), (2, [2, 2])])
def test_a_batch_is_scored_in_parts_by_the_threads_that_decode(folder, shipped, decoder, size, parts):
    names = ["one", "two", "three", "dicom"]
    threads = set()

    def score(tensor):
        threads.add(threading.current_thread().name)
        return float(tensor.mean())

    scorer = FakeScorer(shipped.card, score, sizes=[size])
    result = run(folder, names, scorer, decoder, by_threads=True)
    whole = run(folder, names, FakeScorer(shipped.card), decoder)
    assert scorer.batches == parts
    assert all(name.startswith("nightread-decode") for name in threads)
    assert {one.sha256: one.score for one in result.predictions} == {one.sha256: one.score for one in whole.predictions}
    assert {one.batch_size for one in result.predictions} == set(parts)
    assert result.outcomes == whole.outcomes


def test_a_prediction_tells_how_it_was_made(folder, scorer, decoder):
    (found,) = run(folder, ["one"], scorer, decoder).predictions
    card = scorer.card
    assert (found.model_digest, found.preprocessing) == (scorer.digest, card.preprocessing_version)
    assert (found.label, found.decision) == (card.labels[0], card.decide((found.score,))[0])
    assert (found.runtime, found.provider, found.device) == ("fake 1", "FakeProvider", "cpu")
    assert (found.batch_size, found.worker) == (1, "worker-1")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_a_content_that_comes_again_is_scored_once_and_then_reused(folder, scorer, decoder, batch_size):
    result = run(folder, ["one", "copy-of-one", "two", "one"], scorer, decoder, batch_size=batch_size)
    assert sum(scorer.batches) == 2
    assert [outcome.reused for outcome in result.outcomes] == [False, True, False, True]


def test_known_contents_are_neither_decoded_nor_scored(folder, scorer, decoder, monkeypatch):
    monkeypatch.setattr(content_module, "read_for", None)
    names = ["one", "copy-of-one", "dicom"]
    result = run(folder, names, scorer, decoder, known={digest_of(folder, name) for name in names})
    assert [(outcome.status, outcome.reused) for outcome in result.outcomes] == [(ScanStatus.SCORED, True)] * 3
    assert scorer.batches == []
    assert result.outcomes[2].instance_uid == "1.2.826.0.1.3680043.8.498.1"
    assert result.outcomes[2].series_uid == "1.2.826.0.1.3680043.8.498.3"


def test_a_known_content_whose_attributes_cannot_be_read_is_scored_all_the_same(folder, scorer, decoder, monkeypatch):
    monkeypatch.setattr("nightread.scan.dicom.find_acquisition", fail_with(RecursionError(CANARY)))
    (outcome,) = run(folder, ["dicom"], scorer, decoder, known={digest_of(folder, "dicom")}).outcomes
    assert (outcome.status, outcome.study_uid) == (ScanStatus.SCORED, None)


def test_the_database_is_asked_once_a_window_and_never_for_nothing(folder, scorer, decoder):
    asked = []

    def find_stored(digests):
        asked.append(digests)
        return set(), {}, {}

    score_scans(
        list_scans(folder, ["one", "two", "copy-of-one", "one", "text", "empty"]), scorer,
        Limits([folder], MAX_BYTES, 2), decoder=decoder, find_stored=find_stored,
        check_lease=lambda: None, worker="worker-1",
    )  # fmt: skip
    assert asked[0] == sorted([digest_of(folder, "one"), digest_of(folder, "two")])
    assert all(digests for digests in asked)
    assert len(asked) == 2


@pytest.mark.parametrize("score", [float("nan"), -0.001, 1.001, float("inf")])
def test_an_invalid_score_fails_its_scan_alone(folder, shipped, decoder, score):
    values = itertools.chain([0.25, score], itertools.repeat(0.75))
    scorer = FakeScorer(shipped.card, lambda tensor: next(values))
    result = run(folder, ["one", "two", "three"], scorer, decoder)
    assert [(outcome.status, outcome.reason_code) for outcome in result.outcomes] == [
        (ScanStatus.SCORED, None), (ScanStatus.FAILED, "invalid-score"), (ScanStatus.SCORED, None),
    ]  # fmt: skip
    assert [prediction.score for prediction in result.predictions] == [0.25, 0.75]


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_the_ends_of_the_range_are_scores(folder, shipped, decoder, score):
    result = run(folder, ["one"], FakeScorer(shipped.card, lambda tensor: score), decoder)
    assert [prediction.score for prediction in result.predictions] == [score]


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (RecursionError(CANARY), Reason.INTERNAL_ERROR),
        (RuntimeError(CANARY), Reason.INTERNAL_ERROR),
        (UnicodeDecodeError("ascii", CANARY.encode(), 0, 1, CANARY), Reason.INTERNAL_ERROR),
    ],
)
def test_whatever_decoding_raises_costs_one_scan(folder, scorer, decoder, monkeypatch, caplog, error, reason):
    decode, victim = content_module.read_for, (folder / "two").read_bytes()

    def read_for(data, *arguments, **options):
        return fail_with(error)() if data == victim else decode(data, *arguments, **options)

    monkeypatch.setattr(content_module, "read_for", read_for)
    result = run(folder, ["one", "two", "three"], scorer, decoder)
    assert [outcome.reason_code for outcome in result.outcomes] == [None, reason.value, None]
    assert result.outcomes[1].status is ScanStatus.FAILED
    assert CANARY not in caplog.text + str(result)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(MemoryError(), Reason.OUT_OF_MEMORY), (OverflowError(PATH_CANARY), Reason.INTERNAL_ERROR)],
)
def test_whatever_reading_raises_puts_one_scan_off(folder, scorer, decoder, monkeypatch, caplog, error, reason):
    read = content_module.read_file

    def read_file(path, **options):
        return fail_with(error)() if path.endswith("two") else read(path, **options)

    monkeypatch.setattr(content_module, "read_file", read_file)
    result = run(folder, ["one", "two", "three"], scorer, decoder)
    assert [(scan.id, why) for scan, why, _ in result.put_off] == [(1, reason)]
    assert [outcome.scan_id for outcome in result.outcomes] == [0, 2]
    assert PATH_CANARY not in caplog.text


@pytest.mark.parametrize("by_threads", [False, True])
def test_a_model_that_raises_ends_the_job(folder, shipped, decoder, by_threads):
    scorer = FakeScorer(shipped.card, fail_with(RuntimeError("CUDA is gone")))
    with pytest.raises(RuntimeError, match="CUDA"):
        run(folder, ["one"], scorer, decoder, by_threads=by_threads)


def test_neither_log_nor_reason_tells_a_path_or_a_patient(folder, scorer, decoder, caplog):
    caplog.set_level("DEBUG")
    result = run(folder, EXPECTED, scorer, decoder)
    told = caplog.text + "".join(str(outcome.reason_text) for outcome in result.outcomes)
    told += "".join(text for _, _, text in result.put_off)
    assert PATH_CANARY not in told
    assert CANARY not in told


def test_a_lost_lease_stops_the_work_within_a_window(folder, scorer, decoder):
    calls = itertools.count(1)

    def check_lease():
        if next(calls) == 3:
            raise LeaseLost("taken over")

    with pytest.raises(LeaseLost):
        run(folder, ["one", "two", "three", "dicom"], scorer, decoder, batch_size=1, check_lease=check_lease)
    assert sum(scorer.batches) < 3


def test_the_next_window_is_being_decoded_while_one_is_scored(folder, shipped, decoder, monkeypatch):
    decoded = threading.Semaphore(0)
    decode = content_module.read_for

    def read_for(*arguments, **options):
        scan = decode(*arguments, **options)
        decoded.release()
        return scan

    def score(tensor):
        assert decoded.acquire(timeout=30)  # its own
        assert decoded.acquire(timeout=30)  # the next window's, before this one is through
        decoded.release()
        return 0.5

    monkeypatch.setattr(content_module, "read_for", read_for)
    scorer = FakeScorer(shipped.card, score)
    scorer_last = run(folder, ["one", "two"], FakeScorer(shipped.card), decoder, batch_size=1)
    assert len(scorer_last.predictions) == 2
    while decoded.acquire(blocking=False):
        pass
    run(folder, ["one", "two", "text"], _LastIsFree(scorer), decoder, batch_size=1)


class _LastIsFree:
    """Checks the overlap at the first batch only: nothing is decoded after the last one."""

    def __init__(self, scorer):
        self.card, self.digest, self.provider = scorer.card, scorer.digest, scorer.provider
        self.device, self.runtime = scorer.device, scorer.runtime
        self._scorers = itertools.chain([scorer], itertools.repeat(FakeScorer(scorer.card)))

    def infer_batch(self, batch):
        return next(self._scorers).infer_batch(batch)


@given(
    sizes=st.lists(st.integers(0, 100), max_size=30), batch_size=st.integers(1, 8), max_bytes=st.integers(1, 150)
)  # fmt: skip
@settings(deadline=None, derandomize=True)
def test_windows_keep_the_order_and_respect_number_and_bytes(sizes, batch_size, max_bytes):
    scans = [OpenScan(number, "x", size) for number, size in enumerate(sizes)]
    windows = list(split_windows(scans, batch_size, max_bytes))
    assert [scan for window in windows for scan in window] == scans
    for window in windows:
        assert 1 <= len(window) <= batch_size
        assert len(window) == 1 or sum(scan.size_bytes for scan in window) <= max_bytes


def test_no_scans_are_no_work(folder, scorer, decoder):
    result = run(folder, [], scorer, decoder)
    assert (result.outcomes, result.predictions, result.put_off, scorer.batches) == ([], [], [], [])


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_is_a_rejection_or_a_failure_and_its_text_fits_the_column(reason):
    outcome = end_without_score(OpenScan(7, "x", 1), reason, "y" * 1000)
    assert outcome.status is (ScanStatus.REJECTED if reason.is_rejection else ScanStatus.FAILED)
    assert (outcome.scan_id, outcome.reason_code, len(outcome.reason_text)) == (7, reason.value, 300)
    assert len(reason.value) <= 32
    assert Path(outcome.reason_text).name == outcome.reason_text
