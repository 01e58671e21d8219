"""The Redis of docker-compose.yml has the settings of docs/reference/queue.md, and users with narrow rights."""

from pathlib import Path

import pytest
import redis

from tests.compose_redis import PASSWORDS, run_compose_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with run_compose_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_settings_are_those_that_lose_nothing_in_silence(server):
    with server.connect() as client:
        settings = client.config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["save"] == ""
    assert settings["maxmemory"] == str(256 * 2**20)
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["tcp-keepalive"] == "60"
    assert settings["timeout"] == "0"


@pytest.mark.parametrize("user", [None, "default", "worker", "publisher", "nobody"])
def test_nobody_gets_in_without_a_password(server, user):
    password = None if user is None else "wrong"
    client = redis.Redis(port=server.port, username=user, password=password, retry=None)
    with client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_no_password_is_in_the_process_list_or_on_the_disk(server, tmp_path_factory):
    seen = Path(f"/proc/{server.pid}/cmdline").read_text() + Path(f"/proc/{server.pid}/environ").read_text()
    for file in tmp_path_factory.getbasetemp().glob("redis*/**/*"):
        seen += file.read_text(errors="replace") if file.is_file() else ""
    assert "user worker on" in seen
    assert not [word for word in PASSWORDS.values() if word in seen]


QUEUE = "nightread:nightread"
FORBIDDEN_TO_BOTH = [
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "KEYS *", "SHUTDOWN", "ACL LIST", "DEBUG SLEEP 0", "CLIENT LIST",
    "CLIENT KILL TYPE normal", "CLIENT PAUSE 1000", "MONITOR", "EVAL return 0", "MODULE LIST", "REPLICAOF 127.0.0.1 1",
    "SAVE", "GET other", "LPUSH other x", "PUBLISH nightread:x y", "SUBSCRIBE nightread:x", "SCRIPT FLUSH",
]  # fmt: skip


@pytest.mark.parametrize(
    ("user", "command"),
    [(user, command) for user in ("worker", "publisher") for command in FORBIDDEN_TO_BOTH]
    + [
        ("publisher", command)
        for command in (
            f"BRPOP {QUEUE} 1", f"RPOP {QUEUE}", f"LRANGE {QUEUE} 0 -1", f"DEL {QUEUE}", "HGETALL nightread:unacked",
            "HSET nightread:unacked x y", "LPUSH nightread:unacked x", "SET nightread:refused 0",
            "INCRBY nightread:refused 1",
        )
    ],
)  # fmt: skip
def test_what_nobody_needs_is_denied(server, user, command):
    with server.connect(user) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split(" "))
