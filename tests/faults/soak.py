"""Row 30, the soak test: many scans and random faults over a long time, then the check of all invariants.

python -m tests.faults.soak --scans 100000 --minutes 30 --seed 1 --record soak.json
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.faults.case import Case
from tests.faults.nights import make_pool
from tests.faults.report import SOAK
from tests.faults.rig import DATABASE, run_rig
from tests.faults.rows.redis import disturb
from tests.garbage import make_garbage

_NIGHT = 2_000
_QUEUE = "nightread:nightread"
_JOB = 64
#: Number of open jobs that is kept up, so that workers always have work when a fault begins.
_OPEN_JOBS = 3 * _NIGHT // _JOB
#: Time limit from the end of the faults until no run is open.
_WORK_S = 300.0


def _kill_worker(case: Case) -> None:
    case.choose.choice(case.fleet.workers).kill()


def _kill_child(case: Case) -> None:
    case.choose.choice(case.fleet.workers).kill_children()


def _stop_worker(case: Case) -> None:
    worker = case.choose.choice(case.fleet.workers)
    worker.send_all(signal.SIGSTOP)
    case.nap(1, 8)
    worker.send_all(signal.SIGCONT)


def _end_worker(case: Case) -> None:
    case.choose.choice(case.fleet.workers).send(case.choose.choice([signal.SIGTERM, signal.SIGQUIT]))


def _kill_redis(case: Case) -> None:
    case.rig.redis.kill()
    case.nap(0.1, 3)
    case.rig.redis.start()


def _empty_redis(case: Case) -> None:
    with case.rig.redis.connect() as client:
        client.flushall()


def _drop_clients(case: Case) -> None:
    with case.rig.redis.connect() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def _poison_queue(case: Case) -> None:
    with case.rig.redis.connect() as client:
        client.lpush(_QUEUE, *case.choose.sample(make_garbage(case.folder / "executed"), 5))


def _copy_messages(case: Case) -> None:
    with case.rig.redis.connect() as client:
        for message in client.lrange(_QUEUE, 0, 9):
            client.lpush(_QUEUE, message, message)


def _disturb_redis(case: Case) -> None:
    disturb(case, case.rig.redis_proxy, "network to Redis:")


def _disturb_postgres(case: Case) -> None:
    disturb(case, case.rig.postgres_proxy, "network to PostgreSQL:")


def _kill_postgres(case: Case) -> None:
    case.choose.choice([case.rig.postgres.kill, case.rig.postgres.stop])()
    case.nap(0.1, 3)
    case.rig.postgres.start()


def _terminate_connections(case: Case) -> None:
    with psycopg.connect(case.rig.postgres.url(DATABASE), autocommit=True, application_name="fault") as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nightread'")


def _fail_storage(case: Case) -> None:
    flag = case.gates / "eio"
    flag.touch()
    case.nap(0.2, 1)
    flag.unlink()


FAULTS: list[Callable[[Case], None]] = [
    _kill_worker, _kill_child, _stop_worker, _end_worker, _kill_redis, _empty_redis, _drop_clients, _poison_queue,
    _copy_messages, _disturb_redis, _disturb_postgres, _kill_postgres, _terminate_connections, _fail_storage,
]  # fmt: skip

#: Faults that count their parts themselves.
_COUNT_THEMSELVES = (_disturb_redis, _disturb_postgres)


def soak(case: Case, count: int, minutes: float) -> tuple[list[str], list[int]]:
    """Run the soak test.

    Args:
        case: a case without workers.
        count: number of scans.
        minutes: time in which scans are enqueued and faults injected.

    Returns:
        The violations, and the memory of the larger worker in bytes, sampled every ten seconds.
    """
    nights = [
        case.make_night(min(_NIGHT, count - start), seed=case.seed * 1000 + start) for start in range(0, count, _NIGHT)
    ]
    waiting = list(nights)
    duration_s = 60 * minutes
    # Each worker alone could score everything in that time, so that there is time to recover from faults.
    case.start_workers(2, *[case.env(job_size=_JOB, batch_size=32, READ_S=duration_s / count)] * 2)
    began = time.monotonic()
    memory: list[int] = []
    sampled = 0.0

    def is_due() -> bool:
        """Return whether to enqueue the next night; they are spread over the first 95 % of the time."""
        share = (time.monotonic() - began) / (0.95 * duration_s)
        return len(nights) - len(waiting) <= share * len(nights)

    while time.monotonic() < began + duration_s:
        while waiting and is_due() and case.query("SELECT count(*) FROM jobs WHERE status <> 'done'") < _OPEN_JOBS:
            case.enqueue_here(waiting.pop(0), job_size=_JOB)
        if not waiting and case.share_done() == 1:
            break
        if time.monotonic() > sampled + 10:
            memory.append(max(worker.see(0).rss_bytes for worker in case.fleet.workers))
            sampled = time.monotonic()
        case.nap(0.5, 6)
        fault = case.choose.choice(FAULTS)
        if fault not in _COUNT_THEMSELVES:
            case.inject(fault.__name__.removeprefix("_").replace("_", " "))
        fault(case)
    for night in waiting:
        case.enqueue_here(night, job_size=_JOB)
    case.work_s = _WORK_S
    case.most_rss_bytes = 2 * 2**30
    return list(map(str, case.finish())), memory


def main() -> int:
    """Read the options, run the soak test and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightread-soak-") as name:
        folder = Path(name)
        (folder / "pool").mkdir()
        with run_rig(folder / "rig", make_pool(folder / "pool")) as rig:
            (folder / "case").mkdir()
            case = Case(rig, options.seed, folder / "case")
            violations, memory = soak(case, options.scans, options.minutes)
            outcome = "failed" if violations else "passed"
            counts = {"row": SOAK, "seed": options.seed, "outcome": outcome, **vars(case.counts)}
    thirds = max(1, len(memory) // 3)
    counts["rss_mib"] = [round(statistics.median(part) / 2**20) for part in (memory[:thirds], memory[-thirds:]) if part]
    sys.stdout.write("\n".join([*case.timeline, json.dumps(counts), *violations]) + "\n")
    if options.record:
        options.record.write_text(json.dumps([counts | {"violations": violations}], indent=1))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
