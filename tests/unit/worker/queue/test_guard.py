"""The filter passes messages for one job, without their options, and refuses all others."""

import base64
import contextlib
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Connection

from nightread.settings import read_settings
from worker.queue.celery_app import make_app
from worker.queue.guard import GuardedTransport, Refused, clean_message
from worker.queue.publisher import QUEUE, SCORE_TASK

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
JOB_ID = "0123456789abcdef" * 2
TASK_ID = "01234567-89ab-cdef-0123-456789abcdef"


def make_message(task=SCORE_TASK, arguments=(JOB_ID,)):
    return {
        "body": base64.b64encode(json.dumps([list(arguments), {}, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": task, "id": TASK_ID},
        "properties": {"delivery_tag": TASK_ID},
    }


@pytest.mark.parametrize("scheme", ["redis://h/0", "rediss://h/0", "redis+socket:///tmp/s"])
def test_every_redis_scheme_is_filtered(scheme):
    app = make_app(read_settings(broker_url=scheme))
    assert isinstance(app.connection_for_read().transport, GuardedTransport)
    assert isinstance(Connection(scheme).transport, GuardedTransport)


def test_a_message_of_nightread_is_kept():
    cleaned = clean_message(make_message())
    assert json.loads(base64.b64decode(cleaned["body"]))[0] == [JOB_ID]
    assert (cleaned["headers"]["task"], cleaned["headers"]["id"]) == (SCORE_TASK, TASK_ID)
    assert cleaned["properties"]["delivery_tag"] == TASK_ID
    assert clean_message(cleaned) == cleaned  # as when it is delivered again


def test_a_kept_message_has_the_fields_that_celery_sends_and_no_option():
    cleaned = clean_message(make_message())
    assert json.loads(base64.b64decode(cleaned.pop("body"))) == [
        [JOB_ID], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
    ]  # fmt: skip
    assert cleaned == {
        "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {
            "lang": "py", "task": SCORE_TASK, "id": TASK_ID, "root_id": TASK_ID, "parent_id": None, "group": None,
            "eta": None, "expires": None, "retries": 0, "timelimit": [None, None], "argsrepr": f"['{JOB_ID}']",
            "kwargsrepr": "{}", "ignore_result": True,
        },
        "properties": {
            "correlation_id": TASK_ID, "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": QUEUE}, "delivery_tag": TASK_ID,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"content-type": "application/x-python-serialize"}, {"content-encoding": "binary"}, {"headers": []},
        {"properties": None}, {"body": None}, {"body": "A" * 1_004}, {"body": "no base64!"},
        {"body": base64.b64encode(json.dumps([["0" * 31], {}, {}]).encode()).decode()},
    ],
)  # fmt: skip
def test_a_message_that_nightread_did_not_send_is_refused(change):
    with pytest.raises(Refused):
        clean_message(make_message() | change)


def test_options_of_a_message_are_dropped():
    message = make_message()
    message["headers"] |= {
        "eta": "2099-01-01T00:00:00",
        "expires": "2000-01-01T00:00:00",
        "timelimit": [1, 1],
        "chord": "x",
        "shadow": "x",
        "retries": 99,
    }
    message["properties"] |= {"reply_to": "x", "priority": 9, "delivery_info": {"exchange": "x", "routing_key": "x"}}
    assert clean_message(message) == clean_message(make_message())


PLACES = [
    (), ("headers",), ("properties",), ("body",), ("content-type",), ("content-encoding",), ("headers", "task"),
    ("headers", "id"), ("properties", "delivery_tag"),
]  # fmt: skip


@given(place=st.sampled_from(PLACES), value=JSON)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_anything_in_any_place_is_refused_or_makes_no_difference(place, value):
    message = copy.deepcopy(make_message())
    if place:
        inner = message
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value
    else:
        message = value
    with contextlib.suppress(Refused):
        assert clean_message(message) == clean_message(make_message())


@given(arguments=st.lists(JSON, max_size=3), task=st.sampled_from([SCORE_TASK, "nightread.sweep"]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_other_task_and_no_other_arguments_get_through(arguments, task):
    with pytest.raises(Refused):
        clean_message(make_message(task, arguments))
