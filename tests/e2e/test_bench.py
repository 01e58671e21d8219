"""`nightread bench` as a user starts it."""

import json
import signal
from pathlib import Path

import pytest

from tests.program import PATIENCE_S, PROGRAM, last_json, make_environment, run, started, wait_until
from tests.worker_factories import write_scans


@pytest.fixture
def env(tmp_path):
    return make_environment(tmp_path, device="cpu")


def test_measures_a_folder(page_lines, tmp_path, env):
    write_scans(tmp_path / "scans/tonight", 9)
    (line,) = page_lines
    words = [word.replace("~", str(tmp_path)) for word in line.words]
    done = run(*words, "--scans", 12, "--rounds", 1, "--workers", 0, "--json", env=env, cwd=tmp_path)
    found = last_json(done)
    assert json.loads(done.stdout) == found  # nothing else on stdout
    assert (found["scans"], found["different"], found["drawn"], found["rejected"]) == (12, 9, False, 0)
    assert list(found["stages"]) == ["read", "hash", "decode", "prepare", "infer", "commit"]
    assert all(rate > 0 for rate in found["stages"].values())
    slowest = min(found["stages"][stage] for stage in ("decode", "prepare", "infer"))
    assert 0 < found["limit"] < slowest
    assert found["loop"]["scans_per_second"] > 0
    assert found["embedded"]["scans_per_second"] > found["embedded"]["whole_process_scans_per_second"] > 0
    assert found["reuse"]["reused"] == 12
    assert (found["workers"], found["not_measured"]) == ([], [])
    assert (tmp_path / "bench.svg").read_text().startswith("<svg")
    assert not (tmp_path / "data").exists()  # where the results would lie


def test_measures_without_servers(page_lines, tmp_path, env):
    (line,) = page_lines
    found = last_json(run(*line.words, "--scans", 8, "--rounds", 1, env=env, cwd=tmp_path))
    assert (found["scans"], found["drawn"], found["workers"]) == (8, True, [])


@pytest.mark.timeout(400)
def test_measures_workers_of_the_shipped_model(page_lines, tmp_path):
    """With servers that are started for the measurement, and small scans in place of drawn ones of full resolution."""
    env = make_environment(tmp_path, device="cpu", model="")
    night = write_scans(tmp_path / "night", 4)
    (line,) = page_lines
    done = run(*line.words, night, "--scans", 8, "--rounds", 1, "--workers", 1, env=env, cwd=tmp_path, limit_s=300)
    assert "1 worker " in done.stdout
    assert "through Redis and PostgreSQL" in done.stdout
    assert "not measured" not in done.stderr


def test_a_chart_that_is_no_svg_is_refused_before_anything_is_measured(tmp_path, env):
    done = run("bench", "--chart", "bench.gif", env=env, cwd=tmp_path, expect=2)
    assert "name a file that ends in .svg" in done.stderr


def test_what_it_has_started_ends_with_it(tmp_path, env):
    """A measurement that `timeout` or a service manager ends leaves no server and no folder."""
    env |= {"TMPDIR": str(tmp_path)}
    command = [PROGRAM, "bench", "--scans", "8", "--rounds", "1"]
    with started(command, env, tmp_path, tmp_path / "log") as process:
        wait_until(lambda: len(_find_programs(tmp_path)) > 1, "the servers")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 130
    assert not _find_programs(tmp_path)
    assert not list(tmp_path.glob("nightread-bench-*"))


def _find_programs(folder: Path) -> list[bytes]:
    """Return the command lines of this machine that name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except OSError:  # it has ended
            continue
        if bytes(folder) in line:
            found.append(line)
    return found
