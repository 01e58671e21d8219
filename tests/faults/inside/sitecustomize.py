"""Faults inside worker processes: slow storage, short timeouts, failures, and disabled guards.

Python imports this module first if its folder is on PYTHONPATH. Environment variables `FAULTS_*` select the changes,
each of which is applied to a module right after its import. Production code is not aware of it.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_options = {name.removeprefix("FAULTS_"): value for name, value in os.environ.items() if name.startswith("FAULTS_")}
_without = frozenset(_options.get("WITHOUT", "").split(","))
_real_sleep = time.sleep


def _replace(owner: Any, name: str, new: Any) -> None:
    """Replace an attribute, which must exist: after a rename the patch would change nothing."""
    assert hasattr(owner, name), f"{owner} has no {name}: the case would change nothing"
    setattr(owner, name, new)


def _wait_at(gate: Path) -> None:
    """Block while the file `gate` exists, and announce that by a file beside it."""
    if gate.exists():
        Path(f"{gate}.{os.getpid()}").touch()
        while gate.exists():
            _real_sleep(0.01)


def _files(module: ModuleType) -> None:
    real = module.read_file
    slow_s, folder = float(_options.get("READ_S", 0)), _options.get("FOLDER")

    def read_file(path: str, **limits: Any) -> bytes:
        if slow_s:
            _real_sleep(slow_s)
        if folder:
            _wait_at(Path(folder) / "read.gate")
            if (Path(folder) / "eio").exists():
                raise module.StorageError(module.Reason.STORAGE_ERROR, "reading failed: Input/output error")
        if "kill-worker" in path:
            os.kill(os.getpid(), 9)
        return real(path, **limits)

    _replace(module, "read_file", read_file)


def _preparing(module: ModuleType) -> None:
    real = module.read_scan

    def read_scan(data: bytes, **limits: Any) -> Any:
        if b"POISON-SEGV" in data:
            import ctypes

            ctypes.string_at(0)
        if b"POISON-SPIN" in data:
            while True:
                pass
        if b"POISON-HOG" in data:
            held = []
            while True:
                held.append(bytes(64 * 2**20))  # until the memory limit of its process
        if b"POISON-KILL" in data:
            os.kill(os.getpid(), 9)
        if b"POISON-FULL" in data:
            raise MemoryError
        if b"POISON-DEEP" in data:
            raise RecursionError
        return real(data, **limits)

    _replace(module, "read_scan", read_scan)


def _queue(module: ModuleType) -> None:
    real = module._configure
    times = {}
    if "VISIBILITY_S" in _options:
        times["visibility_timeout"] = float(_options["VISIBILITY_S"])
    if "SOCKET_S" in _options:
        names = ("socket_timeout", "socket_connect_timeout", "health_check_interval")
        times |= dict.fromkeys(names, float(_options["SOCKET_S"]))

    def configure(settings: Any) -> dict[str, Any]:
        conf = real(settings)
        if times:
            # A process that is killed while it returns messages keeps the others from it until its lock expires: in
            # 300 s, longer than any case waits. Kombu looks at every `throttle`-th interval only.
            often = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1, "unacked_mutex_expire": 3}
            conf["broker_transport_options"] |= times | often
            conf["visibility_timeout"] = times.get("visibility_timeout", conf["visibility_timeout"])
            conf["worker_soft_shutdown_timeout"] = 3.0
        if "late-acknowledgement" in _without:
            conf["task_acks_late"] = False
        return conf

    _replace(module, "_configure", configure)


def _publisher(module: ModuleType) -> None:
    if "NEW_TASK" in _options:
        _replace(module, "SCORE_TASK", _options["NEW_TASK"])
    if "sweeper" in _without:
        take = module.take_due_jobs

        def take_due_jobs(connection: Any, limit: int, republish_s: float, **more: Any) -> list[str]:
            return take(connection, limit, 1e9, **more)  # never republish

        _replace(module, "take_due_jobs", take_due_jobs)
        end_runs = module.end_runs

        def sweep(self: Any, engine: Any) -> int:
            end_runs(engine)
            return 0

        _replace(module.Publisher, "sweep", sweep)


def _jobs(module: ModuleType) -> None:
    if "fencing" in _without:
        import sqlalchemy as sa

        jobs, leased = module.jobs, module.JobStatus.LEASED

        def is_claim_current() -> Any:  # with any token
            token = sa.bindparam("of_token", type_=sa.Integer())
            return sa.and_(jobs.c.id == sa.bindparam("of_job"), jobs.c.status == leased, token >= 0)

        _replace(module, "is_claim_current", is_claim_current)


def _storing(module: ModuleType) -> None:
    if "FOLDER" in _options:
        real = module.store_results
        folder = Path(_options["FOLDER"])

        @functools.wraps(real)
        def store_results(*given: Any, **more: Any) -> bool:
            _wait_at(folder / "before-store.gate")
            stored = real(*given, **more)
            _wait_at(folder / "after-store.gate")  # the transaction is still open
            return stored

        _replace(module, "store_results", store_results)


def _scoring(module: ModuleType) -> None:
    _replace(module, "_ROOM_POLL_S", 0.5)
    if "FOLDER" in _options:
        real = module.has_open_jobs
        folder = Path(_options["FOLDER"])

        @functools.wraps(real)
        def has_open_jobs(*given: Any) -> bool:
            _wait_at(folder / "after-commit.gate")
            return real(*given)

        _replace(module, "has_open_jobs", has_open_jobs)


def _scorer(module: ModuleType) -> None:
    """Fail inference as if the device were lost while the file `no-device` exists."""
    real, folder = module.Scorer.infer_batch, Path(_options.get("FOLDER", "/nowhere"))

    def infer_batch(self: Any, batch: Any) -> Any:
        if (folder / "no-device").exists():
            raise RuntimeError("CUDA failure 999: unknown error ; GPU=0 ; expr=cudaStreamSynchronize(stream)")
        return real(self, batch)

    _replace(module.Scorer, "infer_batch", infer_batch)


def _preflight(module: ModuleType) -> None:
    """Skip the preflight process that tests the model, which takes half of a worker's start."""
    found = {"model": "not tried", "why": "", "provider": "", "parity": 0.0, "runtime": "", "retired": False}
    tried = types.SimpleNamespace(returncode=0, stdout=json.dumps(found), stderr="")
    expired = module.subprocess.TimeoutExpired
    stand_in = types.SimpleNamespace(run=lambda *given, **more: tried, TimeoutExpired=expired)
    _replace(module, "subprocess", stand_in)


def _shift_clock(offset_s: float) -> None:
    """Shift `time.time` for this process; the monotonic clock is unchanged."""
    real = time.time
    time.time = lambda: real() + offset_s


_CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "nightread.scan.files": _files,
    "nightread.scan.preprocessing": _preparing,
    "worker.queue.celery_app": _queue,
    "worker.queue.publisher": _publisher,
    "db.jobs": _jobs,
    "db.job_results": _storing,
    "worker.jobs.job": _scoring,
    "nightread.inference.scorer": _scorer,
    "worker.preflight": _preflight,
}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in _CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            try:
                _CHANGES[name](module)
            except BaseException:  # noqa: BLE001  # on any error the change is missing
                traceback.print_exc()
                os._exit(70)  # without the change the case would test nothing

        with contextlib.suppress(AttributeError):
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())  # a decoder's sandbox has none of the variables, and needs the poisons
if "CLOCK_S" in _options:
    _shift_clock(float(_options["CLOCK_S"]))
