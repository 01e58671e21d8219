"""Messages are hints: few, small, without patient data, and republished if lost."""

import base64
import json
import pickle
import threading
import time

import kombu
import pytest
from kombu.exceptions import ContentDisallowed
from sqlalchemy import func, select

from db.due_jobs import take_due_jobs
from db.engine import reading, write
from db.tables import jobs
from db.tallies import RunCounts
from db.types import Priority, RunStatus
from nightread.errors import DatabaseUnavailable
from nightread.settings import read_settings
from tests.db_factories import add_job, add_run, at_once, claim, count, fetch_job, fetch_run, job_ids, shift_time
from worker.errors import BrokerUnavailable
from worker.queue import guard
from worker.queue import publisher as publisher_module
from worker.queue.celery_app import make_app
from worker.queue.publisher import QUEUE, SCORE_TASK, Publisher
from worker.queue.turns import QUEUES

KEY = f"nightread:{QUEUE}"
PASSWORD = "s3cret-canary"


def make_publisher(broker_url, **settings):
    chosen = read_settings(broker_url=broker_url, database_url="sqlite:///unused", **settings)
    return Publisher(make_app(chosen), chosen)


@pytest.fixture(autouse=True)
def _no_connection_outlives_a_test():
    yield
    kombu.pools.reset()


@pytest.fixture
def publisher(redis_url):
    return make_publisher(redis_url, queue_high_water=5, lease_s=60.0)


@pytest.fixture
def client(redis_server):
    with redis_server.connect() as client:
        yield client


def read_messages(client):
    return [json.loads(message) for message in client.lrange(KEY, 0, -1)][::-1]


def pass_moment(engine, *run_ids):
    """Let published messages no longer count as in flight."""
    for run_id in run_ids:
        for job_id in job_ids(engine, run_id):
            if fetch_job(engine, job_id).published_at is not None:
                shift_time(engine, job_id, "published_at", -2)


def sent_ids(client):
    return [json.loads(base64.b64decode(message["body"]))[0][0] for message in read_messages(client)]


class TestPublishing:
    def test_only_up_to_the_high_water_mark_oldest_first(self, engine, publisher, client):
        run_id = add_run(engine, 8, job_size=1)
        assert publisher.publish_due(engine) == 5
        assert publisher.count_waiting() == client.llen(KEY) == 5
        assert set(sent_ids(client)) == set(job_ids(engine, run_id)[:5])
        assert publisher.publish_due(engine) == 0
        client.ltrim(KEY, 0, 1)
        pass_moment(engine, run_id)
        assert publisher.publish_due(engine) == 3
        assert set(sent_ids(client)[2:]) == set(job_ids(engine, run_id)[5:])

    def test_a_queue_with_room_for_one_gets_one(self, engine, publisher, client):
        run_id = add_run(engine, 8, job_size=1)
        publisher.publish_due(engine)
        client.lpop(KEY)
        pass_moment(engine, run_id)
        assert publisher.publish_due(engine) == 1

    def test_a_message_holds_the_id_of_its_job_and_nothing_else(self, sqlite_engine, publisher, client):
        job_id = add_job(sqlite_engine, 3, name="canary-name", sources=["/scans/canary-source"])
        publisher.publish_due(sqlite_engine)
        (message,) = read_messages(client)
        arguments, options, embedded = json.loads(base64.b64decode(message["body"]))
        assert (arguments, options) == ([job_id], {})
        assert not any(embedded.values())
        assert message["content-type"] == "application/json"
        assert message["headers"]["task"] == SCORE_TASK
        assert "/scans" not in str(message)
        assert "canary" not in str(message)
        assert len(client.lindex(KEY, 0)) < 2000

    def test_nothing_is_sent_where_nothing_is_due(self, engine, publisher, client):
        assert publisher.publish_due(engine) == 0
        assert client.llen(KEY) == 0

    def test_a_command_is_told_of_a_broker_that_only_reads_though_a_sweep_has_taken_its_jobs(
        self, engine, publisher, client
    ):
        add_run(engine, 1)
        taken = write(engine, lambda connection: take_due_jobs(connection, 1, 60.0))  # a sweep, before it sends
        assert publisher.publish_due(engine) == 0
        client.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(BrokerUnavailable, match="replica"):
                publisher.publish_due(engine)
            assert publisher.publish_due(engine, only_leader=True) == 0
            assert publisher.publish_due(engine, below=3) == 0
        finally:
            client.replicaof("NO", "ONE")
        assert len(taken) == 1

    def test_a_run_of_another_process_is_left_to_it(self, engine, publisher):
        add_run(engine, 1, embedded=True)
        assert publisher.publish_due(engine) == 0

    def test_of_many_who_count_at_once_none_fills_the_queue_up_again(self, engine, publisher, client, monkeypatch):
        add_run(engine, 40, job_size=1)
        barrier, counted = threading.Barrier(4), publisher.count_waiting

        def count_waiting(*priority):
            waiting = counted(*priority)
            barrier.wait(20)  # all have seen an empty queue before the first of them sends
            return waiting

        monkeypatch.setattr(publisher, "count_waiting", count_waiting)
        published = at_once([lambda: publisher.publish_due(engine)] * 4)
        assert sum(published) == client.llen(KEY) == 5

    def test_what_another_has_marked_and_not_sent_yet_is_counted(self, engine, publisher, client, monkeypatch):
        add_run(engine, 20, job_size=1)
        waiting = publisher.count_waiting()
        write(engine, lambda connection: take_due_jobs(connection, 3, 60))
        monkeypatch.setattr(publisher, "count_waiting", lambda *_: waiting)
        assert publisher.publish_due(engine) == 2

    def test_a_worker_does_not_wait_for_another_that_fills_the_queue(self, postgres_engine, publisher):
        add_job(postgres_engine)
        with postgres_engine.begin() as other:
            other.exec_driver_sql(f"SELECT pg_advisory_xact_lock({publisher_module._LEADER_LOCK})")
            assert publisher.publish_due(postgres_engine, below=3) == 0
        assert publisher.publish_due(postgres_engine, below=3) == 1


class TestLosingTheBroker:
    def test_a_broker_that_is_away_is_told_in_one_line_without_the_password_and_marks_nothing(self, engine):
        job_id = add_job(engine)
        away = make_publisher(f"redis://:{PASSWORD}@127.0.0.1:1/0")
        with pytest.raises(
            BrokerUnavailable, match=r"the broker 127.0.0.1:1/0 does not answer: .*published when"
        ) as told:
            away.publish_due(engine)
        assert "\n" not in str(told.value)
        assert PASSWORD not in str(told.value)
        assert fetch_job(engine, job_id).published_at is None

    def test_where_sending_fails_the_jobs_are_due_at_once_and_sent_when_the_broker_is_back(
        self, engine, publisher, redis_server, client, monkeypatch
    ):
        run_id = add_run(engine, 2, job_size=1)
        monkeypatch.setattr(publisher, "count_waiting", lambda *_: 0)
        redis_server.kill()
        try:
            with pytest.raises(BrokerUnavailable):
                publisher.publish_due(engine)
        finally:
            redis_server.start()
        assert [fetch_job(engine, job_id).published_at for job_id in job_ids(engine, run_id)] == [None, None]
        monkeypatch.undo()
        assert publisher.publish_due(engine) == 2
        assert set(sent_ids(client)) == set(job_ids(engine, run_id))

    def test_a_database_that_is_away_sends_nothing(self, engine, publisher, client, monkeypatch):
        def go_away(*_):
            raise DatabaseUnavailable("away")

        add_job(engine)
        monkeypatch.setattr(publisher_module, "write", go_away)
        with pytest.raises(DatabaseUnavailable):
            publisher.publish_due(engine)
        assert client.llen(KEY) == 0

    def test_what_a_flush_has_lost_is_published_again_by_the_sweep(self, engine, publisher, client, caplog):
        caplog.set_level("INFO")
        run_id = add_run(engine, 3, job_size=1)
        first, *others = job_ids(engine, run_id)
        publisher.publish_due(engine)
        assert claim(engine, first) is not None
        client.flushall()
        assert publisher.sweep(engine) == 0  # they may still be on their way to a worker
        assert "swept" not in caplog.text
        for job_id in (first, *others):
            shift_time(engine, job_id, "published_at", -11)
        assert publisher.sweep(engine) == 2
        assert "swept: 2 jobs published" in caplog.text
        assert set(sent_ids(client)) == set(others)

    def test_while_messages_wait_a_job_is_not_sent_twice_before_the_lease_time_is_over(self, engine, publisher, client):
        job_id = add_job(engine)
        publisher.publish_due(engine)
        shift_time(engine, job_id, "published_at", -50)
        assert publisher.publish_due(engine) == 0
        shift_time(engine, job_id, "published_at", -61)
        assert publisher.publish_due(engine) == 1
        assert sent_ids(client) == [job_id, job_id]


class TestSweeping:
    def test_one_process_at_a_time_sweeps(self, postgres_engine, publisher):
        add_job(postgres_engine)
        with postgres_engine.begin() as leader:
            leader.exec_driver_sql(f"SELECT pg_advisory_xact_lock({publisher_module._LEADER_LOCK})")
            assert publisher.sweep(postgres_engine) == 0
        assert publisher.sweep(postgres_engine) == 1

    def test_a_sweep_tells_of_ended_runs(self, sqlite_engine, publisher, monkeypatch):
        told = []
        monkeypatch.setattr(publisher_module, "notify_ended", lambda *given: told.append(given))
        publisher.sweep(sqlite_engine)
        assert told == [(sqlite_engine, publisher._settings)]

    def test_a_run_that_its_last_worker_did_not_close_is_closed(self, engine, publisher):
        run_id = add_run(engine, 1)
        write(engine, lambda connection: connection.exec_driver_sql("UPDATE scans SET status = 'failed', "
              "reason_code = 'cancelled', reason_text = 'x', finished_at = created_at"))  # fmt: skip
        write(engine, lambda connection: connection.exec_driver_sql("UPDATE jobs SET status = 'done'"))
        publisher.sweep(engine)
        assert fetch_run(engine, run_id).status is RunStatus.FINISHED
        assert count(engine, run_id) == RunCounts(failed=1)


class _Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self._file = file

    def __reduce__(self):
        return open, (str(self._file), "w")


class TestForgedMessages:
    def receive(self, publisher):
        """Take and decode one message like a worker's consumer."""
        with publisher._app.connection_for_read() as connection, connection.channel() as channel:
            consumer = publisher._app.amqp.TaskConsumer(channel)
            received = []
            consumer.callbacks, consumer.on_message = [], received.append
            with consumer:
                deadline = time.monotonic() + 20
                while not received and time.monotonic() < deadline:
                    connection.drain_events(timeout=5)
            received[0].reject()
            return received[0].decode()

    @pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/x-yaml", "text/weird"])
    def test_what_is_not_json_is_refused_and_not_run(self, publisher, client, tmp_path, monkeypatch, content_type):
        """Celery's settings are the second line of defence after `worker.queue.guard`."""
        monkeypatch.setattr(guard, "clean_message", lambda message, _: message)
        publisher.publish(["0" * 32])
        message = json.loads(client.lpop(KEY))
        message |= {
            "body": base64.b64encode(pickle.dumps(_Bomb(tmp_path / "ran"))).decode(), "content-type": content_type,
            "content-encoding": "binary",
        }  # fmt: skip
        client.lpush(KEY, json.dumps(message))
        with pytest.raises(ContentDisallowed):
            self.receive(publisher)
        assert not (tmp_path / "ran").exists()

    def test_a_message_of_ours_is_taken(self, publisher):
        publisher.publish(["0" * 32])
        assert self.receive(publisher)[0] == ["0" * 32]


class TestClasses:
    """Priority: each class has a queue with a high-water mark of its own, which its runs share."""

    def count(self, client):
        return [client.llen(f"nightread:{queue}") for queue in QUEUES.values()]

    def test_an_urgent_run_is_published_at_once_behind_a_full_queue(self, engine, publisher, client):
        add_run(engine, 40, job_size=1)
        publisher.publish_due(engine)
        before = self.count(client)
        add_run(engine, 1, priority=Priority.URGENT)
        add_run(engine, 40, job_size=1, priority=Priority.BULK)
        publisher.publish_due(engine)
        assert before == [0, 5, 0]
        assert self.count(client) == [1, 5, 5]
        assert publisher.publish_due(engine) == 0

    def test_runs_of_one_class_share_its_queue_and_take_turns(self, engine, publisher, client):
        first = add_run(engine, 9, job_size=1)
        second = add_run(engine, 1, job_size=1)
        third = add_run(engine, 9, job_size=1)
        publisher.publish_due(engine, Priority.NORMAL)
        with reading(engine) as connection:
            published = connection.execute(
                select(jobs.c.run_id, func.count()).where(jobs.c.published_at.is_not(None)).group_by(jobs.c.run_id)
            ).all()
        assert dict(map(tuple, published)) == {first: 2, second: 1, third: 2}
        sent = sent_ids(client)
        with reading(engine) as connection:
            runs_of = dict(map(tuple, connection.execute(select(jobs.c.id, jobs.c.run_id)).all()))
        assert [runs_of[job_id] for job_id in sent] == [first, second, third, first, third]
