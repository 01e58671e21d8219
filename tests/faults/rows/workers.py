"""Rows 1 to 7: faults of workers."""

import signal

from db.types import ScanStatus
from nightread.reasons import Reason
from nightread.scan.files import encode_path
from tests.faults.case import LEASE_S, VISIBILITY_S, Case
from tests.faults.checker import Outcome, Violation
from tests.faults.nights import Night, mark
from tests.faults.rows.table import row

_KILLS = 20
_GATES = ("read", "before-store", "after-store", "after-commit")
_STOP_S = 20.0
#: Nights until Redis has handed a message to a worker that does not read it.
_ASKS = 10
_PUBLISHED = "SELECT count(*) FROM jobs WHERE published_at IS NOT NULL AND status <> 'done'"


@row(
    "1",
    "pool process killed",
    injection="SIGKILL to the children of a worker that works on a job, twenty times at random moments",
    outcome="another attempt ends its scans; the main process stays",
)
def pool_process_killed(case: Case) -> list[Violation]:
    fleet = case.start_workers()
    case.enqueue_here(case.make_night(60))
    mains = [worker.pid for worker in fleet.workers]
    for number in range(case.cut(_KILLS)):
        worker = case.wait(lambda: case.find_working() or case.share_done() == 1, "a worker to hold a job")
        if worker is True:
            case.enqueue_here(case.make_night(40, seed=1000 * number + case.seed))
            worker = case.wait_working()
        case.nap(0, 0.2)
        if killed := worker.kill_children():
            case.inject("child killed", killed)
    violations = case.finish()
    assert [worker.pid for worker in fleet.workers] == mains
    return violations


def _poison(case: Case, night: Night, name: str, text: bytes, *reasons: Reason) -> None:
    """Add a poison scan, which crashes its decoder and ends with one of the reasons."""
    base = case.choose.choice(case.rig.pool.plain)
    path = night.add(case.rig.pool, name, mark(base, f"{case.seed}") + text, base)
    night.outcomes[encode_path(path)] = [Outcome(ScanStatus.FAILED, reason.value) for reason in reasons]


@row(
    "2",
    "a decoder crashes, exhausts memory or never returns",
    injection="files on which the decoder reads address 0, allocates without end, kills itself, and loops",
    outcome="each ends alone, with its reason; the others of its job are scored; one worker crash finds all of them",
    own_workers=True,
)
def decoder_crashes(case: Case) -> list[Violation]:
    case.start_workers(2, *[case.env(decode_limit_s=2, job_size=8)] * 2)
    case.work_s += 30
    sound = case.enqueue_here(case.make_night(8, seed=1000 + case.seed))
    night = case.make_night(20)
    _poison(case, night, "00000-a.jpg", b"POISON-SEGV", Reason.DECODER_CRASH)
    _poison(case, night, "00000-b.jpg", b"POISON-HOG", Reason.OUT_OF_MEMORY)
    _poison(case, night, "00000-c.jpg", b"POISON-KILL", Reason.OUT_OF_MEMORY)
    _poison(case, night, "00000-d.jpg", b"POISON-SPIN", Reason.DECODER_TIMEOUT)
    case.inject("poisonous file", 4)
    case.enqueue_here(night)
    case.drain()
    assert case.query("SELECT max(attempts) FROM jobs") <= 3
    return case.finish(repeat=sound)


@row(
    "2b",
    "a file kills its worker before it is decoded",
    injection="a file whose reading kills the pool process (SIGKILL), in a job of nine or more",
    outcome="the job is split until that file stands alone: `worker-crash`; no loop",
    own_workers=True,
)
def reading_kills(case: Case) -> list[Violation]:
    case.start_workers(2, *[case.env(max_attempts=2, lease_s=1, sweep_s=0.5, job_size=8)] * 2)
    sound = case.enqueue_here(case.make_night(8, seed=1000 + case.seed), job_size=8)
    night = case.make_night(8)
    place = case.choose.randrange(8)
    path = night.add(case.rig.pool, f"{place:05}-kill-worker.jpg", case.choose.choice(case.rig.pool.plain))
    night.outcomes[encode_path(path)] = Outcome(ScanStatus.FAILED, Reason.WORKER_CRASH.value)
    case.inject("poisonous file")
    case.enqueue_here(night, job_size=len(night))
    case.drain()
    # Two crashes, one for each halving of nine or a few more scans, and the attempt that fails the last one.
    assert case.query("SELECT sum(attempts) FROM jobs WHERE crashes > 0") <= 3 * 5
    violations = case.finish(repeat=sound)
    assert case.counts.splits >= 3
    return violations


@row(
    "3",
    "MemoryError and RecursionError in a decoder",
    injection="two files on which the decoder raises them",
    outcome="caught where they are raised; main and pool processes stay",
)
def errors_that_end_celery(case: Case) -> list[Violation]:
    fleet = case.start_workers()
    night = case.make_night(20)
    _poison(case, night, "00003-a.jpg", b"POISON-FULL", Reason.OUT_OF_MEMORY)
    _poison(case, night, "00007-b.jpg", b"POISON-DEEP", Reason.INTERNAL_ERROR)
    family = [(worker.pid, *[child.pid for child in worker.children()]) for worker in fleet.workers]
    case.enqueue_here(night)
    case.inject("error raised by a decoder", 2)
    violations = case.finish()
    assert [(worker.pid, *[child.pid for child in worker.children()]) for worker in fleet.workers] == family
    assert case.query("SELECT max(crashes) FROM jobs") == 0
    return violations


@row(
    "4",
    "main process killed",
    injection="SIGKILL to every process of a worker that holds a job, twice at random moments",
    outcome="its lease expires and the sweep republishes the job; Celery redelivers its message too",
)
def main_process_killed(case: Case) -> list[Violation]:
    case.start_workers()
    case.enqueue_here(case.make_night())
    if case.without:  # at a certain moment: a message on its way to a worker is lost in any case, see row 6
        with case.closed("before-store"):
            case.wait_at("before-store").kill()
            case.inject("worker killed")
        return case.finish()
    for _ in range(2):
        worker = case.wait(lambda: case.find_working() or case.share_done() == 1, "a worker to hold a job")
        if worker is True:
            break
        case.nap(0, 0.3)
        worker.kill()
        case.inject("worker killed")
    return case.finish()


@row(
    "5",
    "a worker stops for longer than its lease, then resumes",
    injection="SIGSTOP to a worker right before it commits, until another worker holds its job and Celery's visibility "
    "timeout is over; its files are replaced meanwhile; SIGCONT while the other worker still reads them",
    outcome="the job is leased, so its token alone refuses the late writer: the second worker's reading counts",
)
def late_writer(case: Case) -> list[Violation]:
    case.start_workers()
    night = case.make_night(4)
    with case.closed("before-store"):
        case.enqueue_here(night, job_size=100)
        worker = case.wait_at("before-store")
        worker.send_all(signal.SIGSTOP)
        case.inject("worker stopped")
    with case.closed("read"):  # from before the lease runs out, so that the other worker waits there with the job
        expected = case.send_anew(night)
        (run_id,) = case.accepted
        case.accepted[run_id] = expected
        case.wait(lambda: case.query("SELECT max(lease_token) FROM jobs") >= 2, "the other worker to take the job")
        case.nap(VISIBILITY_S - LEASE_S, VISIBILITY_S)
        assert case.query("SELECT count(*) FROM predictions") == 0
        worker.send_all(signal.SIGCONT)
        case.wait(lambda: case.query("SELECT count(*) FROM predictions"), "the late writer's transaction")
        if not case.without:
            assert case.query("SELECT status FROM jobs") == "leased", "the late writer has ended another's job"
    return case.finish()


@row(
    "6",
    "messages lost between Redis and a worker",
    injection="SIGSTOP to all workers, publish, SIGKILL: Redis has handed a message to a connection without a reader",
    outcome="the messages are gone from Redis, from all its lists, and only the sweep finds their jobs",
)
def messages_lost_on_the_way(case: Case) -> list[Violation]:
    fleet = case.start_workers()
    with fleet.unsupervised():
        lost = 0
        for number in range(_ASKS):  # Redis waits for a stopped worker for a second, which may just have passed
            for worker in fleet.workers:
                worker.send_all(signal.SIGSTOP)
            case.enqueue_here(case.make_night(16, seed=1000 * number + case.seed))
            case.nap(0.2, 0.5)
            lost = case.query(_PUBLISHED) - case.count_messages()
            if lost > 0:
                break
            for worker in fleet.workers:
                worker.send_all(signal.SIGCONT)
            case.wait_share(1)
            case.wait(lambda: not case.count_messages(), "all acknowledgements")
        assert lost > 0
        case.inject("message lost", lost)
        for worker in fleet.workers:
            worker.kill()
            case.inject("worker killed")
    return case.finish()


@row(
    "7",
    "a worker is told to stop",
    injection="SIGTERM and SIGQUIT to the main process while its child reads, or stands right before its commit, "
    "inside its transaction, or right after it",
    outcome="it ends within its grace; committed work stays, the rest is done again",
)
def told_to_end(case: Case) -> list[Violation]:
    case.start_workers()
    return _tell_to_end(case, case.choose.sample([signal.SIGTERM, signal.SIGQUIT], 2))


@row(
    "7b",
    "a worker is told to stop, and SIGTERM means at once",
    injection="SIGTERM to workers with Celery's REMAP_SIGTERM=SIGQUIT, at the moments of row 7",
    outcome="it ends within its grace; committed work stays, the rest is done again",
    own_workers=True,
)
def told_to_end_at_once(case: Case) -> list[Violation]:
    case.start_workers(2, *[case.env() | {"REMAP_SIGTERM": "SIGQUIT"}] * 2)
    return _tell_to_end(case, [signal.SIGTERM])


def _tell_to_end(case: Case, numbers: list[signal.Signals]) -> list[Violation]:
    fleet = case.fleet
    for night, number in enumerate(numbers):
        gate = case.choose.choice(_GATES)
        case.enqueue_here(case.make_night(16, seed=1000 * night + case.seed))
        with fleet.unsupervised():
            with case.closed(gate):
                worker = case.wait_at(gate)
                worker.send(number)
                case.inject(f"{number.name} {gate}")
                case.nap(0.1, 0.5)
            worker.wait(_STOP_S)
    return case.finish()
