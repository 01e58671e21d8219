"""Fast runs of the real program: one process imports everything, and each command is a fork of it.

A crash of a command costs only a fork, not a start of Python. The fork runs the program's entry point `cli.main.run()`
with an environment of its own and real services; only a worker is started differently, see `_drain`.

`python -m tests.faults.forking` is the forking process, and `Forker` is its client. The process has one thread and no
connections, since neither survives a fork.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from tests.factories import ROOT

#: Pseudo-command: a worker that ends when no work is left.
DRAIN = "drain"
#: Exit code of a command that a failpoint killed.
KILLED = -signal.SIGKILL
#: Between taking a message and noting it as unacknowledged, Redis looks empty for a moment.
_IDLE_LOOKS, _LOOK_S = 4, 0.03


class Forker:
    """Client of a forking process."""

    def __init__(self, folder: Path) -> None:
        """Start the process.

        Args:
            folder: folder for the commands' output, `forked.log`.
        """
        self.log = folder / "forked.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forking", str(self.log)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("NIGHTREAD_")}
            | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, *arguments: Any, env: dict[str, str]) -> int:
        """Run `nightread` or `DRAIN`; returns the exit code, negative after a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([list(map(str, arguments)), env]), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


def _serve(log: Path) -> None:
    _import_everything()
    replies = os.fdopen(os.dup(1), "w")
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for line in sys.stdin:
        arguments, environment = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(arguments, environment)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=replies, flush=True)


def _import_everything() -> None:
    for name in (
        "alembic.command", "celery.apps.worker", "celery.concurrency.solo", "celery.worker.consumer",
        "kombu.transport.redis", "onnxruntime", "psycopg", "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.pysqlite", "cli.main", "cli.output.embedded_run", "pacs.nights",
        "worker.preflight", "worker.tasks",
        *(f"cli.commands.{command}" for command in (
            "cancel", "enqueue", "models_import", "models_stage", "results", "retry", "runs", "schedule", "score",
            "send", "status", "sweep",
        )),
    ):  # fmt: skip
        importlib.import_module(name)


def _become(arguments: list[str], environment: dict[str, str]) -> None:
    """Run the command and exit with its code."""
    from nightread import failpoints as failpoints_module

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["HOME"])
    failpoints_module.arm(environment.get(failpoints_module.VARIABLE, ""))
    sys.argv = ["nightread", *arguments]
    code = 1
    try:
        if arguments == [DRAIN]:
            _drain()
        else:
            from cli.main import run

            run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except Exception:  # noqa: BLE001  # top level of the process
        traceback.print_exc()
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _drain() -> None:
    """Work like `nightread worker` in one process until no message is left or in progress.

    Celery's consumer, the transport and its guard, the task and everything below are real. Omitted are the pool's
    process and the preflight check of the model, which are irrelevant to crashes and cost a start of Python each.
    """
    from celery.worker import WorkController

    import worker.preflight
    from db.due_jobs import count_leases
    from db.engine import make_engine, reading
    from nightread.logs import configure_logging
    from nightread.settings import read_settings
    from worker.queue.celery_app import make_app
    from worker.queue.publisher import QUEUE

    assert hasattr(worker.preflight, "refuse_or_start")  # without it, each drain would start a process
    worker.preflight.refuse_or_start = lambda *_, **__: None
    settings = read_settings()
    configure_logging(settings)
    app = make_app(settings)
    app.set_current()

    def end_when_idle() -> None:
        engine, idle = make_engine(settings.database_url.get_secret_value()), 0
        with app.connection_for_read() as connection:
            client = connection.default_channel.client
            while idle < _IDLE_LOOKS:
                time.sleep(_LOOK_S)
                waits = client.llen(QUEUE) or client.hlen("unacked")
                with reading(engine) as reader:
                    idle = 0 if waits or count_leases(reader) else idle + 1
        os._exit(0)  # everything is committed and acknowledged; Celery's shutdown takes a second

    with app.connection_for_read() as connection:
        connection.default_channel.qos.restore_visible(num=None, interval=1)
    threading.Thread(target=end_when_idle, daemon=True).start()
    WorkController(
        app=app, pool="solo", hostname=f"nightread-{os.getpid()}@%h", loglevel="WARNING",
        without_gossip=True, without_mingle=True, without_heartbeat=True,
    ).start()  # fmt: skip
    raise SystemExit(1)  # only the thread above or a failpoint ends the process


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
