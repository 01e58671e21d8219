"""Checks before a worker's first job: database, roots, model, device.

A child process tries the model, `python -m worker.preflight`: a worker's main process must never hold an inference
session, because it forks, and a session's threads do not survive a fork.
"""

import json
import logging
import signal
import subprocess
import sys
from typing import Any

from db.engine import make_engine
from db.schema import ensure_schema
from nightread.errors import ModelError, NightreadError
from nightread.inference.scorer import Scorer
from nightread.machine import count_cores, read_memory_limit
from nightread.settings import Settings, check_roots, read_settings
from nightread.text import show_size
from worker.health import register_worker
from worker.registry.choose import choose_bundle

_log = logging.getLogger(__name__)

_TRY_LIMIT_S = 300
#: In bytes: a model, ONNX Runtime and the windows of a job.
_WORKER_MEMORY = 2**30


def check_worker(settings: Settings) -> dict[str, Any]:
    """Check everything that a worker needs before it takes a job.

    Returns:
        Findings of the child process: model, why it was chosen, whether it is retired, provider, runtime and parity.

    Raises:
        NightreadError: one line with the fault and its remedy.
        DatabaseError: the database does not answer or has another schema.
    """
    check_roots(settings)
    engine = make_engine(settings.database_url.get_secret_value())
    try:
        ensure_schema(engine)
    finally:
        engine.dispose()
    try:
        tried = (
            subprocess.run(  # this very program; -P: nothing of the current folder, which may hold scans, is imported
                [sys.executable, "-P", "-m", "worker.preflight"],
                capture_output=True,
                text=True,
                timeout=_TRY_LIMIT_S,
                check=False,
            )
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"the model did not open within {_TRY_LIMIT_S} s on this machine") from None
    if tried.returncode == -signal.SIGKILL:
        raise ModelError(_explain_kill())
    if tried.returncode != 0:
        lines = tried.stderr.strip().splitlines() or [f"the model crashed its process (exit {tried.returncode})"]
        raise ModelError(lines[-1])
    found: dict[str, Any] = json.loads(tried.stdout.splitlines()[-1])
    return found


def _explain_kill() -> str:
    limit = read_memory_limit()
    found = "the process that opened the model was killed, as the kernel does where memory runs out"
    if limit is None:
        return f"{found}; free memory on this machine: a worker needs about {show_size(_WORKER_MEMORY)}"
    return (
        f"{found}; this container has {show_size(limit)}, and a worker needs about {show_size(_WORKER_MEMORY)}: raise "
        "its memory limit"
    )


def refuse_or_start(sender: Any, **_: Any) -> None:
    """Check a worker at its start, and end it with one line if a check fails; receives Celery's `worker_init`."""
    settings = sender.app.nightread
    try:
        found = check_worker(settings)
    except NightreadError as error:
        _log.critical("not started: %s", error)
        raise SystemExit(1) from None
    _log.info(
        "model %s (%s) on %s, parity %.1e, %s",
        found["model"], found["why"], found["provider"], found["parity"], found["runtime"],
    )  # fmt: skip
    if found["retired"]:
        _log.warning("model %s is retired: its existing runs are scored, new ones are refused", found["model"])
    register_worker(sender.app.priorities)
    if not settings.scan_roots:
        _log.warning("NIGHTREAD_SCAN_ROOTS is not set: jobs may read any folder that their run names")


def main() -> int:
    """Try the model that a new run would take, and print the findings as JSON; only `check_worker` calls it."""
    try:
        settings = read_settings()
        engine = make_engine(settings.database_url.get_secret_value())
        # A worker still scores runs that were created before the retirement.
        choice = choose_bundle(engine, settings, allow_retired=True)
        scorer = Scorer(choice.bundle, settings.device, settings.threads or count_cores())
    except NightreadError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    found = {
        "model": scorer.card.reference, "provider": scorer.provider, "runtime": scorer.runtime, "parity": scorer.parity,
        "why": choice.why.value, "retired": choice.is_retired,
    }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
