"""The database's clock steps back: lost messages are sent again, and the health check tells."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from db.due_jobs import count_just_published, count_waiting_jobs, take_due_jobs
from db.engine import reading, write
from db.tables import jobs
from db.types import JobStatus, Priority
from nightread.settings import read_settings
from tests.db_factories import add_run, claim, job_ids
from worker.health import check_sweeping


def shift(engine, **columns):
    """Write times as they stand after the clock has stepped back."""
    times = {name: datetime.now(UTC) + timedelta(seconds=seconds) for name, seconds in columns.items()}
    with engine.begin() as connection:
        connection.execute(update(jobs).values(**times))


@pytest.fixture
def job_id(engine):
    (job_id,) = job_ids(engine, add_run(engine, 1))
    return job_id


def take(engine):
    return write(engine, lambda connection: take_due_jobs(connection, 10, 60))


@pytest.mark.parametrize("ahead_s", [3600, 10**7])
def test_a_message_of_the_future_counts_as_lost_and_takes_no_room(engine, job_id, ahead_s):
    assert take(engine) == [job_id]
    assert take(engine) == []
    shift(engine, created_at=ahead_s, published_at=ahead_s)
    with reading(engine) as connection:
        assert count_just_published(connection, 1.0, Priority.NORMAL) == 0
        assert count_waiting_jobs(connection, unpublished_s=60).jobs == 1
    assert take(engine) == [job_id]
    assert take(engine) == []


def test_a_lease_longer_than_any_has_expired(engine, job_id):
    claim(engine, job_id)
    assert take(engine) == []
    shift(engine, lease_expires_at=86_400)
    assert take(engine) == []
    shift(engine, lease_expires_at=10**6)
    assert take(engine) == [job_id]


def test_the_health_check_tells_that_the_clock_has_stepped_back(engine, job_id):
    settings = read_settings(database_url="sqlite:////nowhere/x.db")
    assert check_sweeping(engine, settings).faults == []
    shift(engine, published_at=3600)
    (fault,) = check_sweeping(engine, settings).faults
    assert "1 jobs have times in the future: the clock of the database has stepped back" in fault
    with engine.begin() as connection:
        connection.execute(update(jobs).values(status=JobStatus.DONE, finished_at=datetime.now(UTC)))
    assert check_sweeping(engine, settings).faults == []
