"""A worker keeps taking messages after Redis has lost its acknowledgement."""

import contextlib
import logging

from nightread.settings import read_settings
from tests.services import run_redis
from worker.queue.celery_app import make_app
from worker.queue.publisher import Publisher

JOB_IDS = ["0" * 32, "1" * 32]


def test_an_acknowledgement_that_fails_does_not_use_up_the_one_message_that_a_worker_may_hold(tmp_path):
    with run_redis(tmp_path) as server:
        settings = read_settings(broker_url=server.url)
        app = make_app(settings)
        Publisher(app, settings).publish(JOB_IDS)
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            channel.basic_qos(0, 1, False)
            taken = []
            with app.amqp.TaskConsumer(channel, on_message=taken.append):
                connection.drain_events(timeout=5)
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=1.5)
                assert len(taken) == 1
                assert not channel.qos.can_consume()
                server.kill()
                taken[0].ack_log_error(logging.getLogger("test"), connection.connection_errors)
                assert channel.qos.can_consume()  # so that it asks for the next, and notices that Redis is gone
