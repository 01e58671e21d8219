"""Rows 1 to 7: what happens to workers."""

import signal

from tests.faults.case import Case
from tests.faults.checker import Violation
from tests.faults.rows.table import row


@row(
    "4",
    "main process killed",
    injection="SIGKILL to every process of a worker that holds a job, four times at random moments",
    outcome="its lease runs out, the sweep publishes the job again; Celery delivers its message again too",
)
def main_process_killed(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue(case.make_night())
    for _ in range(1 if case.without else 4):
        worker = case.wait(lambda: case.find_working() or case.share_done() == 1, "a worker to hold a job")
        if worker is True:
            break
        case.nap(0, 0.3)
        worker.kill()
        case.inject("worker killed")
    return case.finish()


@row(
    "6",
    "messages lost between Redis and a worker",
    injection="SIGSTOP to all workers, publish, SIGKILL: Redis has handed a message to a connection that nobody reads",
    outcome="the messages are gone from Redis, in no list of it, and the sweep alone finds their jobs",
)
def messages_lost_on_the_way(case: Case) -> list[Violation]:
    fleet = case.start_workers()
    with fleet.unsupervised():
        for worker in fleet.workers:
            worker.send_all(signal.SIGSTOP)
        case.enqueue_here(case.make_night(16))
        published = case.query("SELECT count(*) FROM jobs WHERE published_at IS NOT NULL")
        case.nap(0.2, 0.5)
        case.inject("message lost", published - case.count_messages())
        assert case.counts.faults["message lost"] > 0
        for worker in fleet.workers:
            worker.kill()
            case.inject("worker killed")
    return case.finish()
