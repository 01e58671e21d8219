"""Rows 8 to 15: faults of Redis, and of the network to it."""

import signal
import time

from tests.faults.case import Case
from tests.faults.checker import Violation
from tests.faults.fleet import now
from tests.faults.proxy import Proxy
from tests.faults.rows.table import row
from tests.services import run_small_disk

_RESTARTS = 10
#: Time limit from the last restart until a worker claims a job.
_RESUME_S = 10.0


@row(
    "8",
    "Redis killed, nothing on its disk",
    injection="SIGKILL to a Redis without an append-only file once a part is done; restarted, empty",
    outcome="the sweep refills the queue from the database",
)
def redis_killed_and_empty(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night())
    case.wait_share(case.choose.uniform(0.3, 0.6))
    case.rig.redis.kill()
    case.inject("Redis killed")
    case.nap(0.1, 2)
    case.rig.redis.start()
    return case.finish()


@row(
    "9",
    "Redis restarts again and again",
    injection="a Redis with an append-only file killed or stopped ten times, away for up to three seconds each",
    outcome="no worker ends; each takes jobs again, the first of them within ten seconds",
)
def redis_restarts(case: Case) -> list[Violation]:
    fleet = case.start_workers()
    rig = case.rig
    rig.redis.kill()
    file = rig.folder / "redis" / "appendonly.aof"
    file.unlink(missing_ok=True)
    rig.redis.start("--appendonly", "yes")
    mains = [worker.pid for worker in fleet.workers]
    case.enqueue_here(case.make_night(60))
    try:
        for _ in range(case.cut(_RESTARTS)):
            case.nap(0.1, 1)
            number = case.choose.choice([signal.SIGKILL, signal.SIGTERM])
            rig.redis.kill(number)
            case.inject("Redis restarted")
            time.sleep(case.choose.triangular(0.1, 3, 0.1))
            rig.redis.start("--appendonly", "yes")
        case.enqueue_here(case.make_night(16, seed=1000 + case.seed))
        back = now()
        case.wait(lambda: any(one.find_progress() > back for one in fleet.workers), "a job to be taken", _RESUME_S)
        violations = case.finish()
        kept = file.read_bytes()
        assert kept
        assert b"CANARY" not in kept
    finally:
        rig.redis.kill()
        rig.redis.start()
    assert [worker.pid for worker in fleet.workers] == mains
    return violations


@row(
    "10",
    "Redis emptied",
    injection="FLUSHALL, then DEL unacked*, at random moments",
    outcome="the sweep refills the queue; nothing else changes",
)
def redis_emptied(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night())
    case.wait_share(case.choose.uniform(0.1, 0.4))
    with case.rig.redis.connect() as client:
        client.flushall()
        case.inject("FLUSHALL")
        case.nap(0.1, 1)
        client.delete("nightread:unacked", "nightread:unacked_index", "nightread:unacked_mutex")
        case.inject("unacked deleted")
    return case.finish()


@row(
    "11",
    "Redis is full",
    injection="CONFIG SET maxmemory below the used memory, policy noeviction, in a night and while another is enqueued",
    outcome="`enqueue` says so and ends with 5, its run is written; all continues when there is room",
)
def redis_full(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night())
    case.wait_share(case.choose.uniform(0.1, 0.4))
    with case.rig.redis.connect() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1000)
        case.inject("Redis full")
        try:
            case.enqueue(case.make_night(12, seed=1000 + case.seed), expect=5)
            case.nap(0.5, 2)
        finally:
            client.config_set("maxmemory", 0)
    return case.finish()


@row(
    "12",
    "the disk of Redis is full",
    injection="the append-only file on a file system of 2 MB, which is filled in a night, then freed",
    outcome="a process that ends is restarted; all continues when there is room",
)
def redis_disk_full(case: Case) -> list[Violation]:
    case.start_workers()
    redis = case.rig.redis
    folder = redis._folder
    with run_small_disk("2m") as disk:
        redis.kill()
        redis._folder = disk.folder
        redis.start("--appendonly", "yes", "--logfile", str(folder / "redis.log"))
        try:
            case.enqueue_here(case.make_night())
            case.wait_share(case.choose.uniform(0.1, 0.4))
            disk.fill()
            case.inject("disk of Redis full")
            with redis.connect() as client:
                case.wait(lambda: client.info("persistence")["aof_last_write_status"] == "err", "Redis to notice")
            case.nap(0.5, 3)
            disk.free()
            return case.finish()
        finally:
            redis.kill()
            redis._folder = folder
            redis.start()


@row(
    "13",
    "connections to Redis go nowhere",
    injection="a proxy that silently stops forwarding on existing connections; new ones work",
    outcome="the workers notice by their timeouts and reconnect; messages may be lost, scans are not",
)
def redis_black_hole(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night())
    case.wait_share(case.choose.uniform(0.1, 0.4))
    case.rig.redis_proxy.black_hole()
    case.inject("black hole to Redis")
    return case.finish()


def disturb(case: Case, proxy: Proxy, name: str) -> None:
    """Partition a network, reset its connections, refuse new ones, and slow it down, in random order."""

    def partition() -> None:
        proxy.partition()
        case.nap(1, 4)

    def reset() -> None:
        for _ in range(5):
            proxy.reset()
            case.nap(0.05, 0.5)

    def refuse() -> None:
        proxy.refuse()
        case.nap(0.5, 2)

    def slow() -> None:
        latency_s = case.choose.uniform(0.01, 0.1)
        for bytes_per_s in case.choose.sample([0, 1_000], 2):
            proxy.slow(latency_s=latency_s, bytes_per_s=bytes_per_s)
            case.nap(0.5, 1.5)

    for cause in case.choose.sample([partition, reset, refuse, slow], 4):
        case.inject(f"{name} {cause.__name__}")
        cause()
        proxy.heal()
        case.nap(0, 0.5)


@row(
    "14a",
    "the network to Redis is bad",
    injection="a proxy: full partition, RST to all connections, no new ones, latency and 1 KB/s, in random order",
    outcome="the workers continue when the network does",
)
def redis_network(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night(60))
    case.wait_share(0.1)
    disturb(case, case.rig.redis_proxy, "network to Redis:")
    return case.finish()


@row(
    "15",
    "Redis drops or delays its clients",
    injection="CLIENT KILL TYPE normal three times, CLIENT PAUSE for up to three seconds, at random moments",
    outcome="the workers reconnect; they wait out a pause",
)
def redis_clients(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night(60))
    with case.rig.redis.connect() as client:
        for _ in range(3):
            case.nap(0.1, 0.7)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            case.inject("CLIENT KILL")
        client.execute_command("CLIENT", "PAUSE", case.choose.randrange(500, 3000), "ALL")
        case.inject("CLIENT PAUSE")
    return case.finish()
