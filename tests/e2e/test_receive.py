"""The real `receive` is killed at each of its steps while DCMTK sends: no instance is lost or doubled."""

import signal
import subprocess
import threading
import urllib.request

from sqlalchemy import select

from db.engine import make_engine, reading
from db.tables import runs, scans
from tests.dicom_peers import storescu, write_study
from tests.factories import CANARY
from tests.program import PATIENCE_S, PROGRAM, make_environment, run, started, wait_until, worker
from tests.services import find_free_port

POINTS = (
    "receive-before-rename", "receive-after-rename", "receive-after-batch", "enqueue-before-commit",
    "enqueue-after-commit", "receive-before-done",
)  # fmt: skip


def receive(env, folder, port, log, *options):
    command = [
        PROGRAM, "receive", "--spool", folder / "spool", "--allow", "MODALITY", "--listen", f"127.0.0.1:{port}",
        "--quiet-for", "1s", "--min-free", "0", *options,
    ]  # fmt: skip
    return started(command, env, folder, log)


def test_receiver_that_is_killed_at_each_step_loses_and_doubles_nothing(tmp_path, redis_url, sqlite_url):
    for number in range(3):
        write_study(tmp_path / "in", number)
    (tmp_path / "struck").mkdir()
    log, port, metrics = tmp_path / "receive.log", find_free_port(), find_free_port()
    health = ("receive", "--spool", tmp_path / "spool", "--allow", "ANY", "--listen", f"127.0.0.1:{port}", "--health")
    env = make_environment(tmp_path, broker_url=redis_url, database_url=sqlite_url, log_level="DEBUG")
    armed = env | {
        "NIGHTREAD_FAILPOINT": ",".join(f"{point}:kill" for point in POINTS),
        "NIGHTREAD_FAILPOINT_DIR": str(tmp_path / "struck"),
    }
    engine = make_engine(sqlite_url)
    ends, is_sent = [], threading.Event()

    def has_rows():
        with reading(engine) as connection:
            return len(connection.execute(select(scans.c.id)).all()) >= 6

    while not ends or ends[-1] is not None:
        with receive(armed, tmp_path, port, log, "--metrics", f"127.0.0.1:{metrics}") as process:
            while process.poll() is None:
                if not is_sent.is_set() and storescu(port, "+sd", tmp_path / "in", expect=None).returncode == 0:
                    is_sent.set()
                if is_sent.is_set() and has_rows() and list((tmp_path / "spool/.batches").glob("*.done")):
                    break
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
            ends.append(process.poll())
            if ends[-1] is None:
                run(*health, env=env, cwd=tmp_path)
                with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=30) as answer:
                    assert b"nightread_spool_waiting_instances 0.0" in answer.read()
                process.terminate()
                assert process.wait(PATIENCE_S) == 0
                assert "no process has the spool open" in run(*health, env=env, cwd=tmp_path, expect=1).stderr
                storescu(port, "+sd", tmp_path / "in", expect=None)
    assert sorted(file.name for file in (tmp_path / "struck").iterdir()) == sorted(f"{one}-kill-1" for one in POINTS)
    assert ends[:-1] == [-signal.SIGKILL] * len(POINTS)

    with worker(env, tmp_path, tmp_path / "worker.log"):
        wait_until(lambda: _are_ended(engine), "the runs to end")
    with reading(engine) as connection:
        rows = connection.execute(select(scans.c.instance_uid, scans.c.status, scans.c.path)).all()
    assert sorted(uid for uid, _, _ in rows) == sorted(f"1.2.276.{n + 1}.1.{i + 1}" for n in range(3) for i in range(2))
    assert {status for _, status, _ in rows} == {"scored"}
    for text in (log.read_text(), (tmp_path / "worker.log").read_text(), *(path for _, _, path in rows)):
        assert CANARY not in text


def _are_ended(engine):
    with reading(engine) as connection:
        return all(ended is not None for (ended,) in connection.execute(select(runs.c.finished_at)))
