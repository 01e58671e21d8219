"""Decoders in processes of their own that crash, hang and run out of memory."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from db.types import ScanStatus
from nightread.inference.content import decode_content
from nightread.reasons import Reason
from nightread.scan.preprocessing import InputSpec
from tests.db_factories import claim, count, expire_lease, fetch_job, fetch_scans
from tests.factories import CANARY, ROOT, encode_dicom, encode_jpeg, encode_png16, small_chest
from tests.program import hook_decoding, wait_until
from tests.worker_factories import add_job_of, run_process, write_scans
from worker.decoder.sandbox import IsolatedDecoders, IsolationLimits
from worker.jobs.job import score_job

SPEC = InputSpec(height_px=75, width_px=64, channels=3)
MAX_PIXELS = 1_000_000

#: What a decoder does to a scan that holds these bytes; anything else is decoded.
POISONS = {
    b"POISON-SEGV": "ctypes.string_at(0)",
    b"POISON-ABORT": "os.abort()",
    b"POISON-EXIT": "os._exit(0)",
    b"POISON-KILL": "os.kill(os.getpid(), 9)",
    b"POISON-SPIN": "exec('while True: pass')",
    b"POISON-SLEEP": "time.sleep(1000)",
    b"POISON-EAT": "held = [bytearray(1 << 26) for _ in range(1000)]",  # 64 GB, were it allowed
    b"POISON-DEEP": "raise RecursionError(data)",
    b"POISON-PRINT": "os.write(1, b'PRINTED'); print('PRINTED')",
    b"POISON-LIE": "import __main__; __main__._send; __main__._send = lambda *_: os.write(4, b'x' * 90)",
}  # fmt: skip


def poisoned(mark, seed=0):
    """Return an intact JPEG with a mark after its end, which decoders ignore."""
    return encode_jpeg(small_chest(seed)) + mark + CANARY.encode()


@pytest.fixture
def hooked(monkeypatch, tmp_path):
    for name, value in hook_decoding(tmp_path, POISONS).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def decoders(hooked):
    decoders = IsolatedDecoders(IsolationLimits(30.0, MAX_PIXELS, 10**6))
    yield decoders
    decoders.close()


@pytest.mark.parametrize("encode", [encode_jpeg, encode_png16, encode_dicom])
def test_what_comes_out_is_what_comes_out_of_a_thread(decoders, encode):
    data = encode(small_chest(1))
    apart, here = decoders.decode(data, SPEC), decode_content(data, SPEC, MAX_PIXELS)
    np.testing.assert_array_equal(apart.tensor, here.tensor)
    assert (apart.acquisition, apart.rule, apart.reason, apart.text) == (
        here.acquisition,
        here.rule,
        None,
        "",
    )


@pytest.mark.parametrize("data", [b"no image", encode_jpeg()[:900], encode_png16(small_chest(0, 1100, 1100))])
def test_what_is_refused_is_refused_with_the_same_words(decoders, data):
    apart, here = decoders.decode(data, SPEC), decode_content(data, SPEC, MAX_PIXELS)
    assert apart == here
    assert apart.reason.is_rejection


@pytest.mark.parametrize(
    ("mark", "reason", "said"),
    [
        (b"POISON-SEGV", Reason.DECODER_CRASH, "SIGSEGV"),
        (b"POISON-ABORT", Reason.DECODER_CRASH, "SIGABRT"),
        (b"POISON-EXIT", Reason.DECODER_CRASH, "exit 0"),
        (b"POISON-KILL", Reason.OUT_OF_MEMORY, "run out of memory"),
        (b"POISON-EAT", Reason.OUT_OF_MEMORY, "not enough memory"),
        (b"POISON-DEEP", Reason.INTERNAL_ERROR, "RecursionError"),
        (b"POISON-LIE", Reason.DECODER_CRASH, "answer that is none"),
    ],
)
def test_whatever_a_scan_does_to_its_decoder_costs_that_scan(decoders, mark, reason, said, caplog):
    poison = decoders.decode(poisoned(mark), SPEC)
    assert (poison.tensor, poison.reason, poison.reason.is_rejection) == (None, reason, False)
    assert said in poison.text
    assert CANARY not in poison.text + caplog.text
    assert decoders.decode(encode_jpeg(), SPEC).reason is None


@pytest.mark.parametrize(("mark", "said"), [(b"POISON-SPIN", "decoding"), (b"POISON-SLEEP", "did not end within 2 s")])
def test_what_does_not_end_is_ended(hooked, mark, said):
    decoders = IsolatedDecoders(IsolationLimits(2.0, MAX_PIXELS, 10**6))
    started = time.monotonic()
    poison = decoders.decode(poisoned(mark), SPEC)
    assert (poison.reason, time.monotonic() - started < 60) == (Reason.DECODER_TIMEOUT, True)
    assert said in poison.text
    assert "NIGHTREAD_DECODE_LIMIT_S" in poison.text
    decoders.close()


def test_what_a_decoder_prints_goes_nowhere(decoders):
    assert decoders.decode(poisoned(b"POISON-PRINT"), SPEC).reason is None


def test_a_decoder_that_was_taken_over_reaches_nothing(monkeypatch, tmp_path):
    """It reads no other file, changes none, has no network, starts nothing, and leaves its parent alone."""
    target = tmp_path / "secret" / "file"
    target.parent.mkdir()
    target.write_text("secret")
    code = (
        f"import tests.escapes as escapes; raise type('E_'.join(['', *escapes.find_escapes({str(target)!r})]) + '_END',"
        " (Exception,), {})"
    )
    for name, value in hook_decoding(tmp_path, {b"POISON-ESCAPE": code}).items():
        monkeypatch.setenv(name, value)
    decoders = IsolatedDecoders(IsolationLimits(30.0, MAX_PIXELS, 10**6))
    found = decoders.decode(poisoned(b"POISON-ESCAPE"), SPEC)
    decoders.close()
    assert found.text == "decoding failed with _END"
    assert target.read_text() == "secret"
    assert sorted(file.name for file in target.parent.iterdir()) == ["file"]


def test_a_process_is_used_again_knows_no_password_and_ends_with_its_owner(hooked, monkeypatch):
    monkeypatch.setenv("NIGHTREAD_DATABASE_URL", "postgresql://u:SECRET@h/d")
    monkeypatch.setenv("PGPASSWORD", "SECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    decoders = IsolatedDecoders(IsolationLimits(30.0, MAX_PIXELS, 10**6))
    before = {child.pid for child in psutil.Process().children()}
    for seed in range(3):
        assert decoders.decode(encode_jpeg(small_chest(seed)), SPEC).reason is None
    (child,) = [child for child in psutil.Process().children() if child.pid not in before]
    assert "SECRET" not in str(child.environ())
    assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000"
    assert [int(file.name) for file in Path(f"/proc/{child.pid}/fd").iterdir() if int(file.name) > 4] == []
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert ("NoNewPrivs:\t1" in status, "Seccomp:\t2" in status) == (True, True)
    decoders.close()
    assert not child.is_running()


def test_a_process_whose_owner_is_killed_ends(hooked, tmp_path):
    code = (
        "from worker.decoder.sandbox import *; from worker.decoder.sandbox import _DecoderProcess; import time\n"
        "print(_DecoderProcess(IsolationLimits(30.0, 1000, 1000))._process.pid, flush=True); time.sleep(1000)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, env=dict(os.environ))
    pid = int(owner.stdout.readline())
    assert psutil.pid_exists(pid)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", "the decoder's end")


def test_no_decoder_process_is_no_scan_s_fault(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/not/there")
    decoders = IsolatedDecoders(IsolationLimits(30.0, MAX_PIXELS, 10**6))
    assert decoders.decode(encode_jpeg(), SPEC).reason is Reason.INTERNAL_ERROR
    assert "could be started" in caplog.text


class TestJobs:
    @pytest.fixture
    def process(self, sqlite_engine, hooked):
        with run_process(sqlite_engine, decode_limit_s=2) as process:
            yield process

    @pytest.mark.parametrize(
        ("mark", "reason"), [(b"POISON-SEGV", "decoder-crash"), (b"POISON-SPIN", "decoder-timeout")]
    )
    def test_a_job_that_was_the_death_of_a_worker_is_decoded_apart_and_ends_whole(
        self, process, tmp_path, mark, reason
    ):
        folder = write_scans(tmp_path / "night", 5)
        (folder / "scan-002").write_bytes(poisoned(mark))
        job_id = add_job_of(process, folder)
        claim(process.engine, job_id)
        expire_lease(process.engine, job_id)  # the worker is dead

        report = score_job(process, job_id)  # and this one, which is the test itself, is not
        rows = fetch_scans(process.engine, fetch_job(process.engine, job_id).run_id)
        assert (report.ended, report.split) == (5, False)
        assert [row.reason_code for row in rows] == [None, None, reason, None, None]
        assert rows[2].status is ScanStatus.FAILED

    @pytest.mark.parametrize(("isolate", "apart"), [("suspect", 0), ("dicom", 1), ("all", 3)])
    def test_the_operator_chooses_what_is_decoded_in_the_sandbox_from_the_start(
        self, sqlite_engine, tmp_path, monkeypatch, isolate, apart
    ):
        decoded = []
        decode = IsolatedDecoders.decode
        monkeypatch.setattr(
            IsolatedDecoders, "decode", lambda self, data, *more: decoded.append(data) or decode(self, data, *more)
        )
        with run_process(sqlite_engine, isolate=isolate) as process:
            job_id = add_job_of(process, write_scans(tmp_path / "night", 3))  # JPEG, PNG, DICOM
            assert score_job(process, job_id).ended == 3
            assert count(process.engine, fetch_job(process.engine, job_id).run_id).scored == 3
        assert len(decoded) == apart

    def test_a_thread_that_does_not_come_back_costs_one_scan_and_no_time_limit(
        self, process, tmp_path, monkeypatch, caplog
    ):
        """Only the decoding of one thread is hooked: it blocks like C code that releases the GIL."""
        from nightread.inference import content as content_module

        folder = write_scans(tmp_path / "night", 5)
        victim = (folder / "scan-001").read_bytes()
        decode, release = content_module.read_for, threading.Event()

        def read_for(data, *arguments, **options):
            if data == victim:
                release.wait()
            return decode(data, *arguments, **options)

        monkeypatch.setattr(content_module, "read_for", read_for)
        job_id = add_job_of(process, folder)
        score_job(process, job_id)
        # A process of its own, where nothing blocks, has decoded it: slow is not wrong.
        assert count(process.engine, fetch_job(process.engine, job_id).run_id).scored == 5
        assert "decoded again in a process of its own" in caplog.text
        assert process.decoder.is_stuck
        release.set()
        wait_until(lambda: not process.decoder.is_stuck, "the thread to come back")
