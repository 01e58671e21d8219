"""Progress without a terminal: a line each minute or tenth, and none from a short command."""

import os
import pty
import re
import subprocess
import sys

import pytest

from cli.output.bar import LineBar
from tests.factories import ROOT


@pytest.fixture
def clock():
    """Time in seconds, which the test moves."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def bar(clock, lines):
    return LineBar("scoring", lines.append, clock)


def test_a_short_command_writes_nothing(bar, clock, lines):
    for completed in range(101):
        clock.now = completed / 12
        bar.set(completed, 100)
    assert lines == []


def test_a_tenth_of_the_work_is_a_line(bar, clock, lines):
    for completed in range(0, 1001, 10):
        clock.now = completed * 0.15  # a tenth takes 15 s
        bar.set(completed, 1000)
    assert len(lines) == 10
    assert lines[0] == "scoring: 100 of 1,000, 10%, 6.7 scans/s, 2 min 15 s left\n"


def test_a_minute_without_a_tenth_is_a_line(bar, clock, lines):
    for second in range(0, 181, 5):
        clock.now = second
        bar.set(second // 5, 100_000, "scoring, 2 workers")
    assert len(lines) == 3
    assert lines[0].startswith("scoring, 2 workers: 12 of 100,000, 0%, 0.2 scans/s")


def test_what_was_done_before_does_not_count_for_the_rate(bar, clock, lines):
    bar.set(900, 1000)
    clock.now = 100
    bar.set(1000, 1000)
    assert lines == ["scoring: 1,000 of 1,000, 100%, 1.0 scans/s, 0.0 s left\n"]


def test_waiting_for_a_worker_says_so(bar, clock, lines):
    bar.set(0, 50)
    clock.now = 61
    bar.set(0, 50, "waiting for a worker")
    assert lines == ["waiting for a worker: 0 of 50, 0%\n"]


def test_bytes_are_sizes_and_an_unknown_total_is_left_out(clock, lines):
    bar = LineBar("pediatric", lines.append, clock, unit="bytes")
    bar.set(0, 0)
    clock.now = 60
    bar.set(60 * 2**20, 0)
    clock.now = 120
    bar.set(120 * 2**20, 240 * 2**20)
    assert lines == [
        "pediatric: 60 MiB, 1 MiB/s\n", "pediatric: 120 MiB of 240 MiB, 50%, 1 MiB/s, 2 min 00 s left\n",
    ]  # fmt: skip


#: A library writes to the file descriptor, past Python, while a bar is shown.
STRAY = """\
import os, sys
from cli.output.console import lines_above_bars, progress_bar
with lines_above_bars(), progress_bar("fit", 10, "steps") as bar:
    bar.set(3, 10)
    os.write(2, b"a library: unable\\x1b[31m to\\n")
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
    os.write(2, b"E0000 00:00:1.1 cuda_dnn.cc:8310] Unable to register\\n")
    os.write(2, b"2026-11-28 10:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on\\n")
    os.write(2, b"F0000 00:00:1.2 check.cc:1] fatal\\n")
    bar.set(7, 10, "epoch 2: loss 0.123, accuracy 0.987")
print("last", file=sys.stderr)
"""


def test_what_a_library_writes_stands_above_the_bar_without_the_log_of_tensorflow():
    reader, writer = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([sys.executable, "-c", STRAY], cwd=ROOT, stderr=writer, env=env) as process:
        os.close(writer)
        said = b""
        while part := _read(reader):
            said += part
    os.close(reader)
    assert process.returncode == 0, said
    plain = re.sub(rb"\x1b\[[\d;?]*[A-Za-z]", b"", said).replace(b"\r", b"\n").split(b"\n")
    assert rb"a library: unable\x1b[31m to" in plain
    assert b"fatal" in said
    for noise in (b"absl", b"cuda_dnn", b"oneDNN"):
        assert noise not in said
    assert b"last" in plain
    assert any(b"epoch 2: loss 0.123, accuracy 0.987" in line and b"7/10" in line for line in plain), plain
    assert max(len(line.decode()) for line in plain) <= 80


def _read(reader):
    try:
        return os.read(reader, 65536)
    except OSError:  # the other end is closed
        return b""
