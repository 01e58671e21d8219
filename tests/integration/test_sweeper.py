"""The sweeper publishes due jobs at intervals, and survives an unavailable broker."""

import pytest

from tests.db_factories import add_job, fetch_job
from tests.program import wait_until
from tests.worker_factories import run_process
from worker.queue.celery_app import make_app
from worker.queue.publisher import Publisher
from worker.queue.sweeper import Sweeper


@pytest.fixture
def process(engine, redis_url):
    with run_process(engine, embedded=False, broker_url=redis_url, lease_s=1, sweep_s=0.1) as process:
        yield process


@pytest.fixture
def sweeper(process):
    publisher = Publisher(make_app(process.settings), process.settings)
    sweeper = Sweeper(publisher, process.engine, process.settings.sweep_s)
    thread = sweeper.start()
    yield sweeper
    sweeper.stop()
    thread.join()


def test_a_due_job_is_published(engine, sweeper):
    job_id = add_job(engine)
    wait_until(lambda: fetch_job(engine, job_id).published_at, "the job's message")


def test_an_unavailable_broker_is_logged_and_retried(engine, redis_server, sweeper, caplog):
    redis_server.kill()
    try:
        job_id = add_job(engine)
        wait_until(lambda: "sweep: the broker" in caplog.text, "a warning")
        assert fetch_job(engine, job_id).published_at is None
    finally:
        redis_server.start()
    wait_until(lambda: fetch_job(engine, job_id).published_at, "the job's message")


def test_an_unexpected_error_does_not_end_the_sweeper(engine, process, sweeper, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(sweeper._publisher, "sweep", None)
        wait_until(lambda: "sweep failed" in caplog.text, "an error")
    job_id = add_job(engine)
    wait_until(lambda: fetch_job(engine, job_id).published_at, "the job's message")
