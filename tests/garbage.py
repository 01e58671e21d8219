"""Hostile messages, which a worker must refuse: they neither run nor end it."""

import base64
import json
import os
import pickle
import uuid


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def make_message(task="nightread.score_job", arguments=("f" * 32,), *, embed=None, body=None, headers=(), **fields):
    body = json.dumps([list(arguments), {}, embed or {}]).encode() if body is None else body
    task_id = str(uuid.uuid4())
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": task_id, "argsrepr": "CANARY", **dict(headers)},
        "properties": {
            "correlation_id": task_id, "reply_to": "", "delivery_mode": 2, "body_encoding": "base64", "priority": 0,
            "delivery_info": {"exchange": "", "routing_key": "nightread"}, "delivery_tag": str(uuid.uuid4()),
        },
        **fields,
    }  # fmt: skip


def make_garbage(file):
    """Return hostile messages; `file` is created if any of them is executed."""
    pickled = pickle.dumps(Canary(file))
    call = {
        "task": "nightread.sweep",
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    no_properties, no_headers = make_message(), make_message()
    del no_properties["properties"], no_headers["headers"]
    messages = [
        [], {}, None, 7, "CANARY", no_properties, no_headers,
        make_message("nightread.other", headers={"shadow": "CANARY"}),
        make_message("celery.backend_cleanup", []),
        make_message("celery.map", [call, [1]]),
        make_message(["nightread.score_job"]),
        make_message(body=pickled, **{"content-type": "application/x-python-serialize", "content-encoding": "binary"}),
        make_message(body=pickled),
        make_message(body=b"\xff\xfe"),
        make_message(body=b"[" * 500),
        make_message(arguments=[]),
        make_message(arguments=["CANARY", "CANARY"]),
        make_message(arguments=["CANARY"]),
        make_message(arguments=[7]),
        make_message(headers={"id": "CANARY\nCANARY"}),
        make_message(headers={"expires": "CANARY"}),
        make_message(body=b"x" * 10_000_000),
    ]  # fmt: skip
    raw = [b"CANARY", b"", b"\xff\xfe\x00", b"[" * 100_000, pickled]
    return raw + [json.dumps(message).encode() for message in messages]
