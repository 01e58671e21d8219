"""Nights of schedules that are sent: each once, those that do not look like a night are held."""

import logging
from datetime import timedelta

import pytest
from pydicom.uid import ComprehensiveSRStorage
from sqlalchemy import select, update

from db.engine import read_clock, reading, write
from db.runs import find_run
from db.schedules import Schedule, add_schedule, end_sending
from db.tables import runs, schedules
from pacs.nights import SendOptions, send_due_nights
from tests.db_factories import at_once, job_ids
from tests.dicom_peers import accepting, write_study
from tests.services import find_free_port
from tests.worker_factories import add_run_of, run_process
from worker.jobs.job import score_job
from worker.runs.guards import end_runs

#: pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def night(engine, tmp_path):
    """A process, and the ended night of two studies of a schedule that sends; SQLite and PostgreSQL in turn."""
    for number in range(2):
        write_study(tmp_path / "night", number, instances=1)
    with run_process(engine) as process:
        run_id = add_run_of(process, tmp_path / "night")
        for job_id in job_ids(engine, run_id):
            score_job(process, job_id)
        write(engine, lambda c: c.execute(update(runs).values(schedule="pacs", night="2026-11-29", guard=None)))
        yield process, run_id


def send_to(process, port, **options):
    """Add the schedule, an hour ago."""
    send = SendOptions(to=f"PACS@127.0.0.1:{port}", **options).to_json()
    schedule = Schedule("pacs", ["/scans"], "02:00", None, "UTC", {"send": send}, "me@here")
    write(process.engine, lambda connection: add_schedule(connection, schedule))
    with reading(process.engine) as connection:
        now = read_clock(connection)
    set_added(process, now - timedelta(hours=1))


def set_added(process, time):
    write(process.engine, lambda c: c.execute(update(schedules).values(created_at=time)))


def send(process):
    return send_due_nights(process.engine, process.settings)


def read_sending(process):
    with reading(process.engine) as connection:
        return connection.execute(select(runs.c.sending)).scalar()


def end_pause(process):
    write(process.engine, lambda c: c.execute(update(runs).values(sending_not_before=None)))


def test_night_is_sent_once_however_many_look(night):
    process, run_id = night
    with accepting(ComprehensiveSRStorage) as (port, got):
        send_to(process, port)
        assert send(process) == 0, "nobody has judged it"
        end_runs(process.engine)
        assert sum(at_once([lambda: send(process) for _ in range(3)])) == 1
        assert (read_sending(process), len(got)) == ("sent", 2)
        assert send(process) == 0
        with reading(process.engine) as connection:
            ended = find_run(connection, run_id).finished_at
        later = ended - timedelta(seconds=1)
        write(process.engine, lambda c: c.execute(update(runs).values(sending=None)))
        write(process.engine, lambda c: end_sending(c, run_id, later, "sent"))
        assert read_sending(process) is None, "it was opened again while it was sent"


def test_night_that_was_there_before_its_schedule_is_not_sent(night):
    process, _ = night
    send_to(process, find_free_port())
    end_runs(process.engine)
    with reading(process.engine) as connection:
        now = read_clock(connection)
    set_added(process, now)
    assert send(process) == 0


@pytest.mark.parametrize("despite_guard", [False, True])
def test_night_whose_guard_tripped_is_held(night, caplog, despite_guard):
    process, _ = night
    write(process.engine, lambda c: c.execute(update(runs).values(guards={"least": 100})))
    end_runs(process.engine)
    with accepting(ComprehensiveSRStorage) as (port, got):
        send_to(process, port, despite_guard=despite_guard)
        assert send(process) == 1
        assert send(process) == 0
    assert (read_sending(process), len(got)) == (("sent", 2) if despite_guard else ("held", 0))
    assert despite_guard or "too-few" in caplog.text


def test_night_waits_for_a_destination_that_is_away_and_is_told_once_it_is_given_up(night, caplog):
    caplog.set_level(logging.INFO)
    process, _ = night
    end_runs(process.engine)
    port = find_free_port()
    send_to(process, port)
    assert [send(process), send(process)] == [1, 0], "it pauses"
    assert read_sending(process) is None
    assert "0 sent, 2 waiting" in caplog.text
    with accepting(ComprehensiveSRStorage, answer=0xC000) as (other, _):
        stored = SendOptions(to=f"PACS@127.0.0.1:{other}").to_json()
        write(process.engine, lambda c: c.execute(update(schedules).values(options={"send": stored})))
        end_pause(process)
        assert send(process) == 1
    assert read_sending(process) == "dead"


def test_options_survive_their_storage():
    options = SendOptions(to="PACS@127.0.0.1:104", only=("pneumonia",), with_captures=True)
    assert SendOptions.from_json(options.to_json()) == options
