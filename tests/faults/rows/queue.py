"""Rows 20 and 21: duplicate and hostile messages in the queue."""

from concurrent.futures import ThreadPoolExecutor

import redis

from tests.faults.case import Case
from tests.faults.checker import Violation
from tests.faults.rows.table import row
from tests.garbage import make_garbage

_QUEUE = "nightread:nightread"


@row(
    "20",
    "enqueued and delivered several times",
    injection="the same folder enqueued twice at once; every waiting message copied five times",
    outcome="two complete runs; each content is scored once; a copy finds its job claimed or done",
)
def everything_twice(case: Case) -> list[Violation]:
    case.start_workers()
    night = case.make_night()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(case.enqueue, [night, night]))
    case.inject("enqueued again")
    with case.rig.redis.connect() as client:
        for message in client.lrange(_QUEUE, 0, -1):
            client.lpush(_QUEUE, *[message] * 5)
            case.inject("message copied", 5)
    violations = case.finish()
    contents = {one.sha256 for one in night.outcomes.values() if one.sha256}
    assert case.query("SELECT count(DISTINCT sha256) FROM predictions") == len(contents)
    return violations


@row(
    "21",
    "the queue is poisoned",
    injection="raw bytes, JSON that is no object, missing properties, unknown tasks, pickles, wrong arguments "
    "and 10 MB among the messages of a night",
    outcome="none of it runs, no worker ends, each is counted",
)
def poisoned_queue(case: Case) -> list[Violation]:
    fleet = case.start_workers()
    mains = [worker.pid for worker in fleet.workers]
    executed = case.folder / "executed"
    garbage = make_garbage(executed)
    case.choose.shuffle(garbage)
    case.enqueue_here(case.make_night())
    with redis.Redis.from_url(case.rig.redis.url) as client:
        for message in garbage:
            client.execute_command(case.choose.choice(["LPUSH", "RPUSH"]), _QUEUE, message)
            case.inject("garbage in the queue")
        violations = case.finish()
        assert int(client.get("nightread:refused")) == len(garbage)
    assert not executed.exists()
    assert [worker.pid for worker in fleet.workers] == mains
    return violations
