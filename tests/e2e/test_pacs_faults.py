"""Instances come over four associations while all that takes part is killed in turn: nothing is lost or doubled."""

import contextlib
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.uid import ComprehensiveSRStorage
from sqlalchemy import func, select, update

from db.deliveries import deliveries
from db.engine import make_engine, reading, write
from db.runs import find_run
from db.tables import runs, scans
from nightread.errors import DatabaseUnavailable
from pacs.destination import open_destination
from pacs.sender import send_run
from pacs.study_reports import Kind
from tests.dicom_peers import accepting, storescu, write_study
from tests.factories import CANARY, small_chest
from tests.faults.servers import run_postgres_server
from tests.onnx_factories import write_tiny_bundle
from tests.program import PROGRAM, make_environment, run, started, wait_until
from tests.services import RedisServer, find_free_port
from tests.worker_factories import run_process

ASSOCIATIONS = 4
#: Longer than the receiver is away at a time, so that no study is taken for complete meanwhile.
QUIET_S = 20
#: For which Redis and PostgreSQL are away at a time.
AWAY_S = 3


class Supervised:
    """A command that is started again whenever it has ended, as by a service manager."""

    def __init__(self, command, env, folder, log):
        self._command, self._env, self._folder, self._log = command, env, folder, log
        self._stop, self.starts, self._process = threading.Event(), 0, None
        self._thread = threading.Thread(target=self._supervise)
        self._thread.start()

    def _supervise(self):
        while not self._stop.is_set():
            with started(self._command, self._env, self._folder, self._log) as self._process:
                self.starts += 1
                while self._process.poll() is None and not self._stop.wait(0.1):
                    pass

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self):
        self._stop.set()
        self._thread.join()


def send_part(port, part):
    """Send a folder over an association of its own, as often as it takes; returns how often."""
    for times in range(1, 1000):
        if storescu(port, "+sd", part, expect=None).returncode == 0:
            return times
        time.sleep(0.3)
    raise AssertionError("the receiver never took it")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", [200, 10_000])
def test_each_instance_has_one_row_and_each_study_one_report(tmp_path, count, is_long):
    if not is_long:
        pytest.skip("takes minutes: --long")
    size = max(20, count // 100)
    pixels = small_chest(0, 64, 64)
    for number in range(count // 2):
        write_study(tmp_path / "in" / f"{2 * number // size:03}", number, pixels=pixels)
    parts = sorted((tmp_path / "in").iterdir())
    write_tiny_bundle(tmp_path / "models")
    (tmp_path / "redis").mkdir()
    redis, port, log = RedisServer(tmp_path / "redis"), find_free_port(), tmp_path / "log"
    redis.start()
    with contextlib.ExitStack() as ends:
        ends.callback(redis.kill)
        postgres = ends.enter_context(run_postgres_server())
        url = postgres.url("postgres")
        env = make_environment(
            tmp_path, database_url=url, broker_url=redis.url, sweep_s=1, lease_s=10, job_size=32, threads=1,
            models_dir=tmp_path / "models", model="tiny@1",
        )  # fmt: skip
        run("db", "upgrade", env=env, cwd=tmp_path)
        receiver, worker = (
            Supervised([PROGRAM, *command], env, tmp_path, log)
            for command in (
                ["receive", "--spool", tmp_path / "spool", "--allow", "MODALITY", "--listen", f"127.0.0.1:{port}",
                 "--quiet-for", f"{QUIET_S}s", "--min-free", "0"],
                ["worker"],
            )
        )  # fmt: skip
        for one in (receiver, worker):
            ends.callback(one.close)

        def restart(server):
            server.kill()
            time.sleep(AWAY_S)
            server.start()

        began = time.monotonic()
        faults = [receiver.kill, worker.kill, lambda: restart(redis), lambda: restart(postgres)] * 2
        with ThreadPoolExecutor(ASSOCIATIONS) as senders:
            sent = [senders.submit(send_part, port, part) for part in parts]
            for place, fault in enumerate(faults, 1):
                due = place * len(parts) // (len(faults) + 2)
                wait_until(lambda due=due: sum(one.done() for one in sent) >= due, f"{due} parts to be sent", 3000)
                fault()
            times = sum(one.result() for one in sent)
        received_s = time.monotonic() - began
        engine = make_engine(url)
        wait_until(lambda: are_ended(engine, count), f"all to be scored: {log.read_text()[-3000:]}", 3000)
        scored_s = time.monotonic() - began
        with reading(engine) as connection:
            rows = connection.execute(select(scans.c.instance_uid, scans.c.status)).all()
            ids = list(connection.execute(select(runs.c.id)).scalars())
        assert {row.status for row in rows} == {"scored"}
        assert len(rows) == count
        assert {row.instance_uid for row in rows} == {
            f"1.2.276.{number + 1}.1.{index}" for number in range(count // 2) for index in (1, 2)
        }
        assert (receiver.starts >= 3, worker.starts >= 3) == (True, True)
        got = ends.enter_context(
            accepting(ComprehensiveSRStorage, keep=lambda one: (str(one.StudyInstanceUID), str(one.SOPInstanceUID)))
        )
        send_all(env, tmp_path, engine, ids, got, lambda: restart(postgres))
        sent_s = time.monotonic() - began
        engine.dispose()
    reports = set(got[1])
    assert len(reports) == count // 2, "a report for each study"
    assert len({study for study, _ in reports}) == count // 2, "and one alone"
    assert CANARY not in log.read_text()
    sys.stdout.write(
        f"{count} instances in {len(parts)} parts, sent {times} times, {len(ids)} runs; received after "
        f"{received_s:.0f} s, scored after {scored_s:.0f} s, reported after {sent_s:.0f} s; receiver started "
        f"{receiver.starts} times, worker {worker.starts}; {len(got[1]) - len(reports)} reports sent twice\n"
    )


def are_ended(engine, count):
    try:
        with reading(engine) as connection:
            found = connection.execute(select(func.count()).select_from(scans)).scalar()
            is_open = connection.execute(select(runs.c.id).where(runs.c.finished_at.is_(None)).limit(1)).first()
    except DatabaseUnavailable:
        return False
    return found >= count and is_open is None


def send_all(env, folder, engine, ids, got, restart_database):
    """Send all runs; the first sender is killed on the way, and PostgreSQL in the middle of the others."""
    port, sent = got
    place = f"PACS@127.0.0.1:{port}"
    with reading(engine) as connection:
        largest = max(ids, key=lambda run_id: find_run(connection, run_id).found)
    with started([PROGRAM, "send", largest, "--to", place], env, folder, folder / "log") as process:
        wait_until(lambda: sent or process.poll() is not None, "the first report")
        process.kill()
    write(engine, lambda connection: connection.execute(update(deliveries).values(not_before=None)))
    left = [largest, *(one for one in ids if one != largest)]
    middle = len(sent) + 3
    destination = open_destination(place, "NIGHTREAD")
    settings = {"models_dir": env["NIGHTREAD_MODELS_DIR"], "model": "tiny@1"}
    with run_process(engine, **settings) as process, ThreadPoolExecutor(1) as aside:
        fault = aside.submit(lambda: (wait_until(lambda: len(sent) >= middle, "some reports"), restart_database()))
        while left:
            with contextlib.suppress(DatabaseUnavailable):
                with reading(engine) as connection:
                    found = find_run(connection, left[0])
                done = send_run(process, found, destination, [Kind.REPORT])
                assert done.dead == 0, done.errors
                if not done.waiting:
                    left.pop(0)
                    continue
                # Claims of the command whose commit was broken off: they would end by themselves.
                write(engine, lambda connection: connection.execute(update(deliveries).values(not_before=None)))
            time.sleep(0.2)
        fault.result()
    destination.close()
