"""Lines of the log name the run and the job that they are about, on every thread that works on it."""

import io
import json
import logging
import sys
import warnings

import pytest

from nightread.errors import NightreadError
from nightread.logs import configure_logging, log_context
from nightread.settings import read_settings
from worker.decoder.thread_pool import Threads

RUN, JOB = "a" * 32, "b" * 32
_log = logging.getLogger("tests.logs")


@pytest.fixture
def log(monkeypatch):
    """Configure the log in a format; returns its text."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    text = io.StringIO()

    def configure(log_format):
        monkeypatch.setattr(sys, "stderr", text)
        configure_logging(read_settings(log_format=log_format))
        return text

    yield configure
    logging.captureWarnings(False)
    root.handlers[:], _ = kept
    root.setLevel(kept[1])


def test_json_lines_hold_run_and_job_as_fields(log):
    written = log("json")
    _log.warning("before")
    with log_context(run=RUN), log_context(job=JOB):
        _log.warning("inside")
    _log.warning("after")
    before, inside, after = map(json.loads, written.getvalue().splitlines())
    assert (inside["run"], inside["job"], inside["message"]) == (RUN, JOB, "inside")
    assert not {"run", "job", "place"} & {*before, *after}
    assert "place" not in inside


def test_a_warning_of_a_library_is_a_line_of_the_log(log):
    written = log("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("two\nlines", UserWarning, stacklevel=1)
    (line,) = map(json.loads, written.getvalue().splitlines())
    assert line["level"] == "WARNING"
    assert "two\nlines" in line["message"]


def test_text_lines_hold_the_beginnings_of_their_ids(log):
    written = log("text")
    with log_context(run=RUN, job=JOB):
        _log.warning("inside")
    assert "tests.logs run aaaaaaaa job bbbbbbbb: inside" in written.getvalue()


def test_a_line_of_a_decoders_thread_names_the_job_that_asked(log):
    written = log("json")
    threads = Threads(1, "test")
    for job in (JOB, "c" * 32):
        with log_context(job=job):
            task = threads.submit(_log.warning, "on a thread")
        threads.wait(task, 10)
    assert [json.loads(line)["job"] for line in written.getvalue().splitlines()] == [JOB, "c" * 32]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_unforeseen_error_is_shown_with_its_places_and_without_its_text(log, log_format):
    written = log(log_format)
    unforeseen = OSError(5, "Input/output error", "/scans/MUELLER^ANNA/1.dcm")
    unforeseen.__cause__ = NightreadError("the share is away")

    def fail():
        raise unforeseen

    try:
        fail()
    except OSError:
        _log.exception("job failed")
    said = written.getvalue()
    assert "MUELLER" not in said
    assert "NightreadError: the share is away" in said
    assert said.index("NightreadError") < said.index("followed by:") < said.index("OSError")
    assert "test_logs.py" in said
