"""What a mutation run breaks, and the tests that should notice."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """Functions that guard something, and the tests that should notice if they do not.

    Attributes:
        guards: what they guard.
        module: dotted name.
        functions: their names; classes stand for all their methods.
        tests: quickest first.
    """

    guards: str
    module: str
    functions: tuple[str, ...]
    tests: tuple[str, ...]


_JOBS = ("tests/integration/test_jobs.py", "tests/integration/test_constraints.py")
_RUNS = ("tests/integration/test_runs.py", "tests/integration/test_tallies.py")
_TALLIES = (*_RUNS[::-1], "tests/integration/test_retention.py")
_REQUESTS = (
    "tests/integration/test_registry.py", "tests/integration/test_intake.py", "tests/integration/test_run_guards.py",
    "tests/integration/test_schedules.py", "tests/integration/test_embedded.py",
    "tests/integration/test_partitions.py",
)  # fmt: skip
_SCORING = ("tests/integration/test_scoring.py", "tests/integration/test_lost_acknowledgement.py")
_PUBLISHER = (
    "tests/integration/test_publisher.py", "tests/integration/test_database_clock.py",
    "tests/integration/test_sweeper.py",
)  # fmt: skip
TARGETS = (
    Target(
        "leases",
        "db.jobs",
        ("claim_job", "_claim_one", "_begin_run", "renew_lease", "release_job", "uncount_attempt", "reclaim_job",
         "queue_again", "load_open_scans", "_select_open_scans"),
        _JOBS,
    ),
    Target("leases", "db.due_jobs", ("is_due", "has_expired_lease"), (*_JOBS, *_PUBLISHER)),
    Target("leases", "worker.jobs.heartbeat", ("Heartbeat",), _SCORING),
    Target("fencing", "db.jobs", ("is_claim_current", "bind_claim", "confirm_claim", "end_job", "split_job"), _JOBS),
    Target("fencing", "db.cancellation", ("cancel_run", "_cancel_step"), (*_RUNS, *_JOBS)),
    Target(
        "publishing",
        "db.due_jobs",
        ("take_due_jobs", "_select_due_runs", "_select_due_of_run", "_is_unsent", "_is_ahead", "mark_unpublished",
         "_set_published", "count_just_published", "_count_published"),
        (*_PUBLISHER, *_JOBS),
    ),
    Target("publishing", "worker.queue.publisher", ("publish", "publish_due", "sweep"), _PUBLISHER),
    Target("publishing", "worker.queue.delivery", ("Delivery",), ("tests/integration/test_delivery.py",)),
    Target(
        "commit order",
        "db.job_results",
        ("store_results", "_end_job", "_put_job_off", "_end_scans"),
        (*_JOBS, "tests/integration/test_tallies.py", "tests/integration/test_measurements.py",
         "tests/integration/test_exposition.py", *_SCORING),
    ),
    Target("commit order", "db.tallies", ("tally_scans", "change_tally", "begin_tally"), _TALLIES),
    Target("commit order", "db.runs", ("create_run",), (*_RUNS, *_REQUESTS)),
    Target("commit order", "db.runs", ("close_finished_runs", "_has_ended", "retry_run"), _RUNS),
    Target(
        "commit order",
        "worker.jobs.job",
        ("_attend", "score_job", "_is_known", "_score_or_release", "_claim", "_release", "_score_claimed",
         "_hand_back", "_store", "_write_where_there_is_room", "_isolate"),
        (*_SCORING, "tests/integration/test_full_disk.py", "tests/integration/test_embedded.py"),
    ),
    Target(
        "the guard of a night",
        "worker.runs.guards",
        ("end_runs", "judge_run", "find_tripped", "_judge_size", "_exceeds"),
        ("tests/unit/worker/runs/test_guards.py", "tests/integration/test_run_guards.py"),
    ),
    Target(
        "the guard of a night",
        "db.guards",
        ("find_unjudged", "store_guard", "find_night_sizes"),
        ("tests/integration/test_run_guards.py",),
    ),
    Target(
        "the guard of the queue",
        "worker.queue.guard",
        ("GuardedQoS", "GuardedChannel", "GuardedTransport", "_read_stored", "clean_message", "_read_job_id"),
        ("tests/unit/worker/queue/test_guard.py", "tests/integration/test_guarded_keys.py"),
    ),
)  # fmt: skip
