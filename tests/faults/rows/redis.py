"""Rows 8 to 15: what happens to Redis, and between it and the workers."""

from tests.faults.case import Case
from tests.faults.checker import Violation
from tests.faults.rows.table import row


@row(
    "8",
    "Redis killed, nothing of it on disk",
    injection="SIGKILL to a Redis without an append-only file once half is done; started again, empty",
    outcome="the sweep fills the queue again from the database",
)
def redis_killed_and_empty(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue(case.make_night())
    case.wait_share(case.choose.uniform(0.3, 0.6))
    case.rig.redis.kill()
    case.inject("Redis killed")
    case.nap(0.1, 2)
    case.rig.redis.start()
    return case.finish()


@row(
    "10",
    "Redis emptied",
    injection="FLUSHALL, then DEL unacked and unacked_index, at random moments",
    outcome="the sweep fills the queue again; nobody notices the rest",
)
def redis_emptied(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue(case.make_night())
    case.wait_share(case.choose.uniform(0.1, 0.4))
    with case.rig.redis.connect() as client:
        client.flushall()
        case.inject("FLUSHALL")
        case.nap(0.1, 1)
        client.delete("nightread:unacked", "nightread:unacked_index")
        case.inject("unacked deleted")
    return case.finish()
