"""A device with little memory gets smaller batches, after memory errors of ONNX Runtime on CPU and CUDA."""

import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest

from db.jobs import OpenScan
from nightread.errors import DeviceFull
from nightread.inference.batch_tuner import BatchTuner
from nightread.inference.scorer import Scorer
from nightread.scan.files import encode_path
from nightread.settings import Device
from tests.factories import ROOT, encode_jpeg, small_chest
from worker.decoder.decoder import Decoder
from worker.decoder.sandbox import IsolationLimits
from worker.jobs.pipeline import Limits, score_scans

_state = ort.capi.onnxruntime_pybind11_state

#: As ONNX Runtime says it, on a GPU whose memory others have taken.
OUT_OF_MEMORY = [
    _state.RuntimeException(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
        "Name:'Conv_0' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
        "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, Stream*) Failed to allocate memory for requested "
        "buffer of size 2147483648"
    ),
    _state.Fail(
        "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; file=cuda_allocator.cc ; "
        "line=66 ; expr=cudaMalloc((void**)&p, size);"
    ),
    _state.EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0"),
    MemoryError("std::bad_alloc"),
]
ILLEGAL = _state.Fail("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered")


class ShortSession:
    """A session on a device with memory for a few scans."""

    def __init__(self, session, most, error):
        self._session, self._most, self._error = session, most, error
        self.batches = []

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run(self, outputs, inputs):
        (batch,) = inputs.values()
        self.batches.append(len(batch))
        if len(batch) > self._most:
            raise self._error
        return self._session.run(outputs, inputs)


@pytest.fixture
def scorer(shipped):
    return Scorer(shipped, Device.CPU, 1)


@pytest.fixture
def night(tmp_path):
    for number in range(14):
        (tmp_path / f"{number:02}").write_bytes(encode_jpeg(small_chest(number)))
    return tmp_path


def run_job(night, scorer, *, by_threads=False):
    scans = [OpenScan(number, encode_path(file), 10) for number, file in enumerate(sorted(night.iterdir()))]
    decoder = Decoder(2, IsolationLimits(60, 10**6, 10**6))
    try:
        return score_scans(
            scans, scorer, Limits([night], 10**6, 7, by_threads), decoder=decoder,
            find_stored=lambda digests: (set(), {}, {}), check_lease=lambda: None, worker="worker-1",
        )  # fmt: skip
    finally:
        decoder.close()


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(night, scorer, caplog, error):
    expected = {prediction.sha256: prediction.score for prediction in run_job(night, scorer).predictions}
    scorer._session = session = ShortSession(scorer._session, 2, error)
    result = run_job(night, scorer)
    assert session.batches == [7, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    found = {prediction.sha256: prediction.score for prediction in result.predictions}
    assert found == pytest.approx(expected, abs=1e-6)
    assert {prediction.batch_size for prediction in result.predictions} == {1}
    assert len(result.outcomes) == 14
    assert "does not suffice for 7 scans at once" in caplog.text
    assert "going on with 3" in caplog.text


def test_a_part_that_does_not_fit_is_halved_and_nothing_is_lost(night, scorer, caplog):
    expected = {prediction.sha256: prediction.score for prediction in run_job(night, scorer).predictions}
    scorer._session = session = ShortSession(scorer._session, 2, OUT_OF_MEMORY[3])
    scorer.tuner = BatchTuner((8,))
    result = run_job(night, scorer, by_threads=True)
    found = {prediction.sha256: prediction.score for prediction in result.predictions}
    assert found == pytest.approx(expected, abs=1e-6)
    assert max(session.batches) == 4
    assert len(result.outcomes) == 14
    assert "going on with 2" in caplog.text


def test_the_next_job_begins_with_the_whole_size_again(night, scorer):
    scorer._session = session = ShortSession(scorer._session, 4, OUT_OF_MEMORY[0])
    assert {prediction.batch_size for prediction in run_job(night, scorer).predictions} == {3, 1}
    session._most = 100
    session.batches.clear()
    run_job(night, scorer)
    assert session.batches == [7, 7]


def test_a_device_without_room_for_one_scan_says_so(night, scorer):
    scorer._session = ShortSession(scorer._session, 0, OUT_OF_MEMORY[1])
    for by_threads in (False, True):
        with pytest.raises(DeviceFull, match="does not suffice for 1 scans"):
            run_job(night, scorer, by_threads=by_threads)


def test_another_fault_of_the_device_is_not_taken_for_it(night, scorer):
    scorer._session = ShortSession(scorer._session, 0, ILLEGAL)
    with pytest.raises(_state.Fail, match="illegal memory access"):
        run_job(night, scorer)


def test_memory_that_is_really_short_is_recognised(shipped, tmp_path):
    """Inference in a process with a limited address space, enough for some scans but not for thousands."""
    file = tmp_path / "inputs.npy"
    np.save(file, np.zeros((4096, *shipped.card.input.shape), np.float32))
    code = f"""
import resource
import numpy as np
from pathlib import Path
from nightread.model.bundle import find_bundle, load_bundle
from nightread.errors import DeviceFull
from nightread.settings import Device
from nightread.inference.scorer import Scorer
from nightread.inference.batch_tuner import BatchTuner
scorer = Scorer(load_bundle(find_bundle("pneumonia-cnn75@1", Path({str(tmp_path)!r}))), Device.CPU, 1)
batch = np.load({str(file)!r})
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20,) * 2)
try:
    scorer.score_batch(batch)
except DeviceFull as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "does not suffice for 4096 scans" in done.stdout
