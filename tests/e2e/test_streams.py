"""The standard streams of the program: full, closed or non-blocking, they cost no traceback, no file and no night."""

import os
import subprocess

import pytest

from tests.factories import write_jpeg
from tests.program import PROGRAM, make_environment, run


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Environment and folder of a scored run."""
    folder = tmp_path_factory.mktemp("streams")
    write_jpeg(folder / "night" / "scan.jpeg")
    env = make_environment(folder)
    run("score", folder / "night", env=env, cwd=folder)
    return env, folder


def run_in_shell(line, env, cwd):
    done = subprocess.run(
        ["bash", "-c", f"{PROGRAM} {line}"], env=env, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("arguments", ["runs", "runs --json", "results --format csv", "--help", "metrics --once"])
def test_a_full_stdout_is_one_line(night, arguments):
    done = run_in_shell(f"{arguments} >/dev/full", *night)
    assert (done.returncode, done.stderr) == (1, "nightread: stdout cannot be written: No space left on device\n")


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_messages_that_cannot_be_written_cost_no_night(night, streams):
    done = run_in_shell(f"score night {streams}", *night)
    assert done.returncode == 0
    assert run_in_shell(f"status nosuch {streams}", *night).returncode == 2


@pytest.mark.parametrize("arguments", ["runs", "runs --json", "results --format csv"])
def test_a_closed_stdout_is_no_error(night, arguments):
    done = run_in_shell(f"{arguments} >&-", *night)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", ["--help", "runs", "results", "results --format csv", "metrics --once", "score night --json"]
)
def test_a_reader_that_has_gone_is_no_error(night, arguments):
    env, folder = night
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [PROGRAM, *arguments.split()], env=env, cwd=folder, stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


def test_a_reader_of_messages_that_has_gone_costs_no_night(night):
    env, folder = night
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        assert (
            subprocess.run([PROGRAM, "score", "night"], env=env, cwd=folder, stderr=pipe, check=False).returncode == 0
        )


def test_a_slow_reader_of_a_non_blocking_pipe_gets_everything(night):
    env, folder = night
    read, write = os.pipe()
    os.set_blocking(write, False)
    os.write(write, bytes(65_536))  # the pipe is full
    with subprocess.Popen([PROGRAM, "runs", "--json"], env=env, cwd=folder, stdout=write) as process:
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            assert pipe.read()[65_536:].startswith(b'[{"run"')
    assert process.returncode == 0
