"""Redis can hold anything: what Nightread did not write is dropped, counted and logged, and ends no consumer."""

import contextlib
import json
import time

import pytest
from kombu import Consumer, Queue
from kombu.transport.redis import Channel, QoS, Transport
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from nightread.settings import read_settings
from tests.garbage import make_garbage, make_message
from worker.queue import guard
from worker.queue.celery_app import make_app
from worker.queue.guard import GuardedTransport
from worker.queue.publisher import QUEUE, Publisher

PREFIX = "nightread:"
UNACKED, INDEX, MUTEX, REFUSED = (PREFIX + key for key in ("unacked", "unacked_index", "unacked_mutex", "refused"))
WRONG = {
    "string": lambda client, key: client.set(key, "CANARY"),
    "list": lambda client, key: client.lpush(key, "CANARY"),
    "hash": lambda client, key: client.hset(key, "CANARY", "CANARY"),
    "set": lambda client, key: client.sadd(key, "CANARY"),
    "sorted-set": lambda client, key: client.zadd(key, {"CANARY": 1}),
    "stream": lambda client, key: client.xadd(key, {"CANARY": "CANARY"}),
}


@pytest.fixture
def app(redis_url, monkeypatch):
    monkeypatch.setattr(GuardedTransport, "refused", 0)  # as in a new worker, which logs the first ones
    return make_app(read_settings(broker_url=redis_url))


@pytest.fixture
def client(redis_server, redis_url):
    return redis_server.connect()


@pytest.fixture
def channel(app):
    with app.connection_for_read() as connection:
        yield connection.default_channel


def consume(app, is_over):
    """Consume like a worker until `is_over(arrived)`, and return the ids of the jobs that arrived."""
    arrived = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        channel.qos.restore_visible()

        def receive(body, message):
            arrived.append(body[0][0])
            message.ack()

        with Consumer(channel, [Queue(QUEUE)], callbacks=[receive], accept=["json"]):
            deadline = time.monotonic() + 20
            while not is_over(arrived):
                assert time.monotonic() < deadline
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)
    return arrived


ENTRIES = [
    b"", b"CANARY", b"\xff\xfe", b"[" * 100_000, b"7", b"null", b"{}", b"[]", b"[1, 2]", b"[1, 2, 3, 4]",
    b'[null, "", "nightread"]', b'["CANARY", {}, []]', b'[{"headers": [], "properties": {}}, "", "nightread"]',
    json.dumps([make_message("celery.backend_cleanup", []), "", "nightread"]).encode(),
]  # fmt: skip


def test_garbage_among_the_messages_not_acknowledged_is_dropped_and_counted(app, client, channel, caplog):
    whole = make_message(arguments=["a" * 32])
    # Where to return it to is not believed either.
    client.hset(UNACKED, "whole", json.dumps([whole, "CANARY", "CANARY"]))
    for number, entry in enumerate(ENTRIES):
        client.hset(UNACKED, f"tag{number}", entry)
    client.zadd(INDEX, {f"tag{number}": 1.0 for number in range(len(ENTRIES))} | {"whole": 1.0, "none": 1.0})
    client.zadd(INDEX, {b"\xff\xfe CANARY": 1.0})
    channel.qos.restore_visible(num=None)
    assert (client.hlen(UNACKED), client.zcard(INDEX)) == (0, 0)
    assert client.get(REFUSED) == str(len(ENTRIES)).encode()
    assert client.llen(PREFIX + QUEUE) == 1
    assert consume(app, bool) == ["a" * 32]
    assert "among those not acknowledged" in caplog.text
    assert "CANARY" not in caplog.text


def test_a_flood_of_entries_is_worked_off_a_part_at_a_time(app, client, channel):
    client.zadd(INDEX, {f"tag{number}": 1.0 for number in range(1500)})
    channel.qos.restore_visible(num=app.conf.broker_transport_options["unacked_restore_limit"])
    assert client.zcard(INDEX) == 500


@pytest.mark.parametrize("kind", WRONG)
def test_a_key_of_another_type_is_deleted_and_its_queue_goes_on(app, client, kind, caplog):
    own = {QUEUE: "list", f"{QUEUE}\x06\x163": "list", "unacked": "hash", "unacked_index": "sorted-set",
           "unacked_mutex": "string", "refused": "string"}  # fmt: skip
    for key in own:
        WRONG[kind](client, PREFIX + key)
    publisher = Publisher(app, read_settings())
    assert publisher.count_refused() == 0
    # A mutex that is a string is held by another worker, and a list of another's messages is a queue.
    wrong = [key for key, own_kind in own.items() if own_kind != kind and key != "refused"]
    consume(app, lambda _: True)
    assert [key for key in wrong if client.exists(PREFIX + key)] == []
    publisher.note_refused()
    assert publisher.count_refused() == len(wrong) + 1
    publisher.publish(["b" * 32])
    assert consume(app, bool) == ["b" * 32]
    assert "CANARY" not in caplog.text


def test_keys_that_get_another_type_while_a_message_is_in_work_lose_nothing_else(app, client):
    publisher = Publisher(app, read_settings())
    publisher.publish(["c" * 32, "d" * 32])
    arrived = []
    with app.connection_for_read() as connection:

        def receive(body, message):
            arrived.append(body[0][0])
            for key in (UNACKED, INDEX):
                client.delete(key)
                WRONG["list"](client, key)
            message.ack()
            if len(arrived) == 1:
                for key in (UNACKED, INDEX):
                    client.delete(key)
                    WRONG["set"](client, key)

        with Consumer(connection.default_channel, [Queue(QUEUE)], callbacks=[receive], accept=["json"]):
            while len(arrived) < 2:
                connection.drain_events(timeout=5)
    assert sorted(arrived) == ["c" * 32, "d" * 32]
    assert client.get(REFUSED) == b"6"


def test_garbage_in_the_queue_and_among_its_priorities_arrives_nowhere(app, client, tmp_path):
    garbage = make_garbage(tmp_path / "executed")
    for number, message in enumerate(garbage):
        client.lpush(PREFIX + QUEUE + ("", "\x06\x163", "\x06\x166", "\x06\x169")[number % 4], message)
    refused = len(garbage) - 1  # one asks for a job, and its other wishes are left out
    arrived = consume(app, lambda arrived: arrived and int(client.get(REFUSED) or 0) >= refused)
    assert (arrived, int(client.get(REFUSED))) == (["f" * 32], refused)
    assert not (tmp_path / "executed").exists()


def test_stored_bindings_are_neither_read_nor_written(app, client):
    client.sadd(f"{PREFIX}_kombu.binding.{QUEUE}", "CANARY")
    client.set(f"{PREFIX}_kombu.binding.", "CANARY")
    Publisher(app, read_settings()).publish(["e" * 32])
    assert consume(app, bool) == ["e" * 32]
    assert sorted(key for key in client.scan_iter() if b"binding" in key) == [
        b"nightread:_kombu.binding.", b"nightread:_kombu.binding.nightread",
    ]  # fmt: skip


def test_an_error_that_is_no_wrong_type_is_told(app, client, channel):
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisError, match=r"maxmemory"):
            channel.qos.append(type("M", (), {"_raw": {}, "delivery_info": {"exchange": "", "routing_key": ""}}), "t")
    finally:
        client.config_set("maxmemory", 0)


CALLS = {
    "append": (QoS, "append", lambda channel: channel.qos.append(None, "tag")),
    "ack": (QoS, "ack", lambda channel: channel.qos.ack("tag")),
    "reject": (QoS, "reject", lambda channel: channel.qos.reject("tag", requeue=True)),
    "read": (Channel, "_brpop_read", lambda channel: channel._brpop_read()),
    "size": (Channel, "_size", lambda channel: channel._size(QUEUE)),
}


@pytest.fixture
def dropped(channel, monkeypatch):
    """Replace the look for keys of another type; returns the calls."""
    calls = []
    monkeypatch.setattr(channel, "drop_wrong_types", lambda: calls.append(True))
    return calls


@pytest.mark.parametrize(("owner", "method", "call"), CALLS.values(), ids=CALLS)
def test_an_error_of_redis_reaches_celery_and_deletes_no_key(channel, dropped, monkeypatch, owner, method, call):
    def refuse(*_, **__):
        raise ResponseError("READONLY You can't write against a read only replica.")

    monkeypatch.setattr(owner, method, refuse)
    with pytest.raises(ResponseError, match="READONLY"):
        call(channel)
    assert not dropped


@pytest.mark.parametrize(("owner", "method", "call"), CALLS.values(), ids=CALLS)
def test_a_key_of_another_type_is_looked_for_and_the_call_goes_on(channel, dropped, monkeypatch, owner, method, call):
    done, faults = [], iter([ResponseError("WRONGTYPE Operation against a key")])

    def refuse_once(*_, **__):
        if fault := next(faults, None):
            raise fault
        return done.append(method) or 7

    monkeypatch.setattr(owner, method, refuse_once)
    channel.qos._delivered["tag"] = None
    assert call(channel) == {"_brpop_read": True, "_size": 7}.get(method)
    assert dropped == [True]
    if method in {"ack", "reject"}:
        channel.qos._flush()
        assert "tag" not in channel.qos._delivered  # else its worker would wait for it for ever
    elif method in {"append", "_size"}:
        assert done == [method]


def test_a_lost_connection_reaches_celery_after_an_acknowledgement(channel, monkeypatch):
    def lose(*_, **__):
        raise ConnectionError("away")

    monkeypatch.setattr(QoS, "ack", lose)
    channel.qos._delivered["tag"] = None
    with pytest.raises(ConnectionError):
        channel.qos.ack("tag")
    channel.qos._flush()
    assert "tag" not in channel.qos._delivered


@pytest.mark.parametrize("error", [ResponseError("NOPERM this user has no permissions"), BrokenPipeError("away")])
def test_a_key_whose_type_redis_does_not_tell_is_kept(channel, client, monkeypatch, error):
    client.rpush(PREFIX + QUEUE, "x")
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "execute", lambda pipe, **_: [error] * len(pipe.command_stack))
        with pytest.raises(type(error)):
            channel.drop_wrong_types()
    assert client.exists(PREFIX + QUEUE)


@pytest.mark.parametrize("is_decoded", [False, True])
def test_a_value_error_is_a_refused_message_unless_its_receiver_raised_it(channel, client, monkeypatch, is_decoded):
    def fail(self, **_):
        self.connection.is_decoded = is_decoded
        raise ValueError("CANARY")

    monkeypatch.setattr(Channel, "_brpop_read", fail)
    if is_decoded:
        with pytest.raises(ValueError, match="CANARY"):
            channel._brpop_read()
    else:
        assert channel._brpop_read() is True
    assert int(client.get(REFUSED) or 0) == (not is_decoded)


def test_refused_messages_are_logged_ever_more_seldom(channel, caplog):
    for _ in range(9):
        channel.count_refused("x")
    assert [record.args[1] for record in caplog.records] == [1, 2, 4, 8]


def test_a_worker_waits_before_it_consumes_again_from_a_redis_that_refuses(channel, monkeypatch):
    def refuse(*_):
        raise ResponseError("READONLY")

    slept = []
    monkeypatch.setattr(Transport, "register_with_event_loop", refuse)
    monkeypatch.setattr(guard.time, "sleep", slept.append)
    with pytest.raises(ResponseError):
        channel.connection.register_with_event_loop(None, None)
    assert slept == [guard._REFUSED_PAUSE_S]
    begun = []
    monkeypatch.setattr(Transport, "register_with_event_loop", lambda *given: begun.append(given[1:]))
    channel.connection.register_with_event_loop("connection", "loop")
    assert begun == [("connection", "loop")]
