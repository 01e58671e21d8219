"""A child that was killed gives its job back through the main process, at once and as a crash."""

import json
import time
import uuid

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from kombu.message import Message

import worker.tasks  # noqa: F401  # registers the task
from db.engine import make_engine
from nightread.errors import DatabaseUnavailable
from nightread.settings import read_settings
from tests.db_factories import add_job, claim, fetch_job
from worker.process import WorkerProcess
from worker.queue import delivery as delivery_module
from worker.queue.celery_app import make_app
from worker.queue.delivery import Delivery
from worker.queue.publisher import QUEUE, SCORE_TASK, Publisher

PID = 4711
HOLDER = WorkerProcess.name_of(PID)


@pytest.fixture
def app(engine, redis_url):
    url = engine.url.render_as_string(hide_password=False)
    return make_app(read_settings(broker_url=redis_url, database_url=url))


@pytest.fixture
def sent(redis_server, redis_url):
    """Return the number of messages in the queue."""
    with redis_server.connect() as client:
        yield lambda: client.llen(f"nightread:{QUEUE}")


def deliver(app, *arguments, pid=PID, acknowledged):
    headers = {"id": str(uuid.uuid4()), "task": SCORE_TASK}
    body = json.dumps([list(arguments), {}, {}])
    message = Message(body, headers=headers, content_type="application/json", content_encoding="utf-8")
    delivery = Delivery(message, app=app, on_ack=lambda *_: acknowledged.append(arguments))
    if pid is not None:
        delivery.on_accepted(pid, time.time())
    return delivery


def fail(delivery, error):
    try:
        raise error  # as billiard reports it
    except type(error):
        delivery.on_failure(ExceptionInfo())


def lose(delivery):
    fail(delivery, WorkerLostError("signal 9"))


def test_the_job_of_a_killed_child_is_sent_again_at_once_as_a_crash(engine, app, sent):
    job_id, acknowledged = add_job(engine), []
    claim(engine, job_id, HOLDER)
    lose(deliver(app, job_id, acknowledged=acknowledged))
    assert (acknowledged, sent()) == ([(job_id,)], 1)
    assert fetch_job(engine, job_id).published_at is not None
    assert claim(engine, job_id).crashes == 1


def test_the_job_of_a_child_beyond_its_time_limit_is_sent_again(engine, app, sent):
    job_id, acknowledged = add_job(engine), []
    claim(engine, job_id, HOLDER)
    delivery = deliver(app, job_id, acknowledged=acknowledged)
    delivery.on_timeout(soft=True, timeout=1)
    assert (acknowledged, sent()) == ([], 0)
    delivery.on_timeout(soft=False, timeout=1)
    assert (acknowledged, sent()) == ([(job_id,)], 1)


def test_an_error_of_a_living_child_leaves_its_job_alone(engine, app, sent):
    job_id = add_job(engine)
    held = claim(engine, job_id, HOLDER)
    fail(deliver(app, job_id, acknowledged=[]), RuntimeError("unforeseen"))
    assert (fetch_job(engine, job_id).lease_token, fetch_job(engine, job_id).lease_holder) == (held.token, HOLDER)
    assert sent() == 0


@pytest.mark.parametrize("pid", [None, PID])
def test_a_job_that_the_killed_child_did_not_hold_is_neither_taken_nor_sent(engine, app, sent, pid):
    job_id = add_job(engine)
    claim(engine, job_id, "worker-2")
    lose(deliver(app, job_id, pid=pid, acknowledged=[]))
    assert fetch_job(engine, job_id).lease_holder == "worker-2"
    assert sent() == 0


def test_a_message_that_no_child_took_leaves_its_job_alone(engine, app, sent):
    job_id = add_job(engine)
    Publisher(app, app.nightread).publish_due(engine)
    lose(deliver(app, job_id, pid=None, acknowledged=[]))
    assert fetch_job(engine, job_id).published_at is not None
    assert sent() == 1


def test_a_message_without_a_job_is_acknowledged(app, sent):
    acknowledged = []
    lose(deliver(app, acknowledged=acknowledged))
    assert (acknowledged, sent()) == ([()], 0)


def test_a_main_process_that_has_unpickled_its_app_reads_the_settings(engine, app, sent, monkeypatch):
    settings, app.nightread = app.nightread, None
    monkeypatch.setattr(delivery_module, "read_settings", lambda: settings)
    job_id = add_job(engine)
    claim(engine, job_id, HOLDER)
    lose(deliver(app, job_id, acknowledged=[]))
    assert sent() == 1


def test_no_connection_is_left_for_the_next_child_to_inherit(engine, app, monkeypatch):
    made = []
    monkeypatch.setattr(delivery_module, "make_engine", lambda url: made.append(make_engine(url)) or made[0])
    job_id = add_job(engine)
    claim(engine, job_id, HOLDER)
    lose(deliver(app, job_id, acknowledged=[]))
    assert [one.pool.checkedin() for one in made] == [0]


def test_a_database_that_is_away_leaves_the_job_to_its_lease(engine, app, caplog, monkeypatch):
    def go_away(*_):
        raise DatabaseUnavailable("away")

    job_id = add_job(engine)
    claim(engine, job_id, HOLDER)
    monkeypatch.setattr(delivery_module, "write", go_away)
    lose(deliver(app, job_id, acknowledged=[]))
    assert fetch_job(engine, job_id).lease_holder == HOLDER
    assert "waits for its lease: away" in caplog.text
