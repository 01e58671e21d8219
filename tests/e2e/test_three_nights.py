"""Three nights of a schedule with real Redis and PostgreSQL, two workers and beat, under a clock that the test sets.

The clock of the program is the database's. Here its function stands in a schema that is searched before the system's.
"""

import contextlib
import os
import signal
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from db.engine import make_engine
from tests.factories import encode_jpeg, small_chest, write_jpeg
from tests.program import PROGRAM, hook_reading, last_json, make_environment, run, started, wait_until, worker
from tests.services import run_webhook

CLOCK = """\
CREATE SCHEMA clock;
CREATE TABLE clock.setting (ahead interval NOT NULL);
INSERT INTO clock.setting VALUES ('0 s');
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM clock.setting';
CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS 'SELECT pg_catalog.now() + ahead FROM clock.setting';
"""
SETTLE_S = 3
#: Its job waits until the test lets it go on, so that there is a middle of the night.
HELD = "held.jpg"


class Cluster:
    """A database with its own clock, workers, and what the test asks of both."""

    def __init__(self, folder, env, engine, webhook):
        self.folder, self.env, self.engine, self.webhook = folder, env, engine, webhook
        self.gate = folder / "gate"
        self.log = folder / "processes.log"

    def set_clock(self, text):
        time = datetime.fromisoformat(text).replace(tzinfo=UTC)
        self.query("UPDATE clock.setting SET ahead = :time - pg_catalog.clock_timestamp() RETURNING 1", time=time)

    def query(self, statement, **values):
        with self.engine.begin() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement), values)]

    def run(self, *arguments, expect=0):
        return run(*arguments, env=self.env, cwd=self.folder, expect=expect)

    def count(self, status):
        return self.query("SELECT count(*) FROM scans WHERE status = :status", status=status)[0][0]

    def wait_for_night(self, night):
        """Wait until the run of a night has ended and was told; returns it as (id, status, guard)."""
        ended = "SELECT id, status, guard FROM runs WHERE night = :night AND notified_at IS NOT NULL"
        (found,) = wait_until(lambda: self.query(ended, night=night), f"the end of the night {night}")
        self.wait_for_notice(found[0])  # a process that is killed before would say nothing
        return found

    def wait_for_notice(self, run_id):
        """Wait until the webhook has heard of a run: it is marked before."""
        wait_until(lambda: any(run_id[:8] in told["message"] for told in self.webhook.told), "the notice")

    @contextlib.contextmanager
    def processes(self):
        """Start two workers and beat; yield them, beat last."""
        with (
            worker(self.env, self.folder, self.log) as one,
            worker(self.env, self.folder, self.log) as other,
            started([PROGRAM, "beat"], self.env, self.folder, self.log) as beat,
        ):
            yield one, other, beat


@pytest.fixture
def webhook():
    with run_webhook() as server:
        yield server


@pytest.fixture
def cluster(tmp_path, postgres_url, redis_url, webhook):
    environment = make_environment(
        tmp_path, database_url=postgres_url, broker_url=redis_url, lease_s=10, sweep_s=1, job_size=2, threads=1,
        notify_urls=f"json://127.0.0.1:{webhook.server_port}/",
    )  # fmt: skip
    environment |= hook_reading(
        tmp_path, f"while path.endswith({HELD!r}) and os.path.exists({str(tmp_path / 'gate')!r}): time.sleep(0.05)"
    )
    engine = make_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(CLOCK)
        name = engine.url.database
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET search_path = public, clock, pg_catalog")
    engine.dispose()  # the next connection has that search path
    cluster = Cluster(tmp_path, environment, engine, webhook)
    cluster.set_clock("2026-11-27T12:00:00")
    cluster.run("db", "upgrade")
    yield cluster
    engine.dispose()


def write_night(folder, count, first):
    for number in range(count):
        path = write_jpeg(folder / f"{number:02}.jpg", small_chest(first + number))
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def read_samples(text):
    return {
        (sample.name.removeprefix("nightread_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_three_nights_run_themselves(cluster, webhook, tmp_path):
    scans = tmp_path / "scans"
    for number, day in enumerate(("2026-11-27", "2026-11-28", "2026-11-29")):
        write_night(scans / day, 6, 10 * number)
    (scans / "2026-11-27" / "00.jpg").rename(scans / "2026-11-27" / HELD)
    for number in range(8):
        (scans / "2026-11-28" / f"wrong-{number}.jpg").write_text(f"no scan {number}")
    late = encode_jpeg(small_chest(77))
    cluster.run(
        "schedule", "add", "ward-a", "--folder", f"{scans}/%Y-%m-%d", "--at", "02:00", "--tz", "Europe/Berlin",
        "--settle", f"{SETTLE_S}s", "--expect", "3..100",
    )  # fmt: skip

    with cluster.processes() as (*workers, beat):
        # The first night: one file is still being written when it begins, and an urgent scan comes in its middle.
        cluster.gate.touch()
        (scans / "2026-11-27" / "late.jpg").write_bytes(late[: len(late) // 2])
        cluster.set_clock("2026-11-28T01:00:00")
        wait_until(lambda: cluster.query("SELECT 1 FROM runs"), "the first night")
        (scans / "2026-11-27" / "late.jpg").write_bytes(late)
        urgent = write_jpeg(tmp_path / "urgent" / "one.jpg", small_chest(99))
        enqueued = cluster.run("enqueue", urgent, "--name", "urgent", "--priority", "urgent", "--wait", "--json")
        cluster.wait_for_notice(last_json(enqueued)["run"])
        told = last_json(cluster.run("status", "ward-a 2026-11-27", "--json"))
        assert told["status"] == "running"
        assert (told["queue_place"], told["queue_runs"], len(told["worker_names"])) == (1, 1, 1)
        cluster.gate.unlink()
        first, status, guard = cluster.wait_for_night("2026-11-27")
        assert (status, guard) == ("finished", "passed")
        assert cluster.query("SELECT status, count(*) FROM scans WHERE run_id = :run GROUP BY 1", run=first) == [
            ("scored", 7)
        ]

        # The second night: beat was killed, and the workers start it. Most of its files are no scans.
        beat.send_signal(signal.SIGKILL)
        beat.wait()
        cluster.set_clock("2026-11-29T01:00:00")
        second, status, guard = cluster.wait_for_night("2026-11-28")
        assert (status, guard) == ("finished", "rejected")

        # The third night: beat is dead, and no worker moves at its hour. It begins late, once, when they are back.
        for each in workers:
            os.killpg(each.pid, signal.SIGSTOP)
        cluster.set_clock("2026-11-30T04:30:00")
        for each in workers:
            os.killpg(each.pid, signal.SIGCONT)
        third, status, guard = cluster.wait_for_night("2026-11-29")
        assert (status, guard) == ("finished", "passed")

    nights = "SELECT night, status, run_id, attempts FROM schedule_nights ORDER BY 1"
    assert cluster.query(nights) == [
        ("2026-11-27", "started", first, 1), ("2026-11-28", "started", second, 1), ("2026-11-29", "started", third, 1),
    ]  # fmt: skip
    assert cluster.query("SELECT count(*) FROM runs") == [(4,)]
    check_notices(webhook, cluster, second)
    check_report(cluster, second, tmp_path)
    check_metrics(cluster)
    log = cluster.log.read_text()
    assert "Traceback" not in log
    assert str(scans) not in log

    # A quarter later, nothing of it is left.
    cluster.set_clock("2027-03-01T12:00:00")
    assert last_json(cluster.run("prune", "--older-than", "90d", "--json"))["runs"] == 4
    for table in ("runs", "jobs", "scans", "predictions", "worklist_rows", "tallies"):
        assert cluster.query(f"SELECT count(*) FROM {table}") == [(0,)]
    cluster.run("db", "check")


def check_notices(webhook, cluster, second):
    """Each run is told of once, the one whose guard tripped as a warning, and none by its path."""
    assert len(webhook.told) == 4
    warnings = [told for told in webhook.told if told["type"] == "warning"]
    assert [told["title"] for told in warnings] == ["Nightread: a night looks wrong (rejected)"]
    assert second[:8] in warnings[0]["message"]
    assert str(cluster.folder) not in str(webhook.told)


def check_report(cluster, second, tmp_path):
    page = tmp_path / "night.html"
    cluster.run("report", "--night", "2026-11-28", "--out", page)
    said = page.read_text()
    assert "14 found = 6 scored + 8 rejected + 0 failed" in said
    assert "This night looks wrong: rejected." in said
    assert second in said


def check_metrics(cluster):
    """The metrics are those of the rows."""
    found = read_samples(cluster.run("metrics", "--once").stdout)
    rows = cluster.query("SELECT coalesce(reason_code, ''), status, count(*) FROM scans GROUP BY 1, 2")
    assert {("scans", reason, status): count for reason, status, count in rows} == {
        key: value for key, value in found.items() if key[0] == "scans" and value
    }
    assert {key[1:]: value for key, value in found.items() if key[0] == "runs" and value} == {
        ("passed", "finished"): 3, ("rejected", "finished"): 1,
    }  # fmt: skip
    assert found["schedule_nights", "ward-a", "started"] == 3
    ended = cluster.query("SELECT finished_at FROM runs WHERE night = '2026-11-29'")[0][0]
    assert found["schedule_last_success_timestamp_seconds", "ward-a"] == pytest.approx(ended.timestamp(), abs=0.001)
    scored = cluster.query("SELECT count(*) FROM predictions")[0][0]
    assert found["job_batched_scans",] == scored
    assert found["job_stage_seconds", "decode"] > 0
