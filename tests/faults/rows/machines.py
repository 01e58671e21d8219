"""Rows 26 to 29: clocks, devices, models and releases that differ between workers."""

import datetime as dt
import re
import shutil
import signal
from pathlib import Path

from nightread.model.bundle import SHIPPED_DIR
from tests.factories import UNGATED_MODEL
from tests.faults.case import Case
from tests.faults.checker import Violation
from tests.faults.fleet import Worker
from tests.faults.hosts import clock_options, clock_variables, find_libfaketime
from tests.faults.rows.table import row
from tests.onnx_factories import write_tiny_bundle

_MODEL = Path(*UNGATED_MODEL.split("@"))


@row(
    "26",
    "a worker's clock is wrong",
    injection="one worker's clock two hours ahead or behind (its Python's clock; the whole process's where there is "
    "libfaketime), one of both killed",
    outcome="leases follow the database's clock: nothing is taken over early, or never",
    own_workers=True,
)
def clock_skew(case: Case) -> list[Violation]:
    hours = case.choose.choice([-2, 2])
    skewed = case.env(**clock_options(hours)) | clock_variables(hours)
    fleet = case.start_workers(2, case.env(), skewed)
    case.enqueue_here(case.make_night(60))
    if find_libfaketime():
        case.wait(lambda: _find_offset_h(fleet.workers[1]) == hours, "a worker that tells another time")
    case.inject(f"clock {hours:+} h")
    case.wait_share(0.2)
    case.choose.choice(case.fleet.workers).kill()
    case.inject("worker killed")
    return case.finish()


def _find_offset_h(worker: Worker) -> int | None:
    """Return the difference between a worker's clock, as in its log, and the machine's, in hours."""
    times = re.findall(r"^(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)", worker.log.read_text(), re.MULTILINE)
    if not times:
        return None
    written = dt.datetime.fromtimestamp(worker.log.stat().st_mtime)  # noqa: DTZ006  # as the log, in local time
    return round((dt.datetime.fromisoformat(times[-1]) - written).total_seconds() / 3600)


@row(
    "27",
    "the device is lost",
    injection="every `session.run()` fails as CUDA does when its device is gone, for up to three seconds (no GPU here: "
    "the error is raised in ONNX Runtime's place)",
    outcome="jobs are released and retried; no scan fails, and no other provider is used",
)
def device_lost(case: Case) -> list[Violation]:
    case.start_workers()
    case.work_s += 30
    case.enqueue_here(case.make_night(24))
    case.wait_share(case.choose.uniform(0.1, 0.3))
    (case.gates / "no-device").touch()
    case.inject("device lost")
    case.nap(1, 3)
    (case.gates / "no-device").unlink()
    violations = case.finish()
    assert (
        case.query("SELECT count(*) FROM predictions WHERE provider <> 'CPUExecutionProvider' OR device <> 'cpu'") == 0
    )
    return violations


@row(
    "28",
    "a model's file is damaged or swapped in a night",
    injection="one worker's bundle with one byte changed, or replaced by another network's under its name; "
    "its pool process killed, so that it opens the file anew; repaired after a while",
    outcome="that worker refuses it and releases its jobs; no score comes from another network",
    own_workers=True,
)
def model_swapped(case: Case) -> list[Violation]:
    folders = [case.rig.folder / f"models-{number}" for number in range(2)]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(SHIPPED_DIR / _MODEL, folder / _MODEL)
    case.start_workers(2, *[case.env(models_dir=folder) for folder in folders])
    case.work_s += 60
    case.enqueue_here(case.make_night())
    case.wait_share(case.choose.uniform(0.1, 0.3))
    bundle = folders[0] / _MODEL
    if case.choose.random() < 0.5:
        model = bytearray((bundle / "model.onnx").read_bytes())
        model[case.choose.randrange(len(model))] ^= 1
        (bundle / "model.onnx").write_bytes(model)
        case.inject("model damaged")
    else:
        shutil.rmtree(bundle)
        write_tiny_bundle(folders[0], name=_MODEL.parts[0])
        case.inject("model swapped")
    if killed := case.fleet.workers[0].kill_children():
        case.inject("pool process killed", killed)
    case.nap(2, 5)
    shutil.rmtree(bundle)
    shutil.copytree(SHIPPED_DIR / _MODEL, bundle)
    violations = case.finish()
    assert case.query("SELECT count(DISTINCT model_digest) FROM predictions") == 1
    return violations


@row(
    "29",
    "workers of two releases side by side",
    injection="one worker whose release has another name for the task; both publish and both take, until the other "
    "one is replaced too",
    outcome="a worker refuses and counts a message that it does not know; the sweep republishes its job",
    own_workers=True,
)
def two_releases(case: Case) -> list[Violation]:
    new = case.env(NEW_TASK="nightread.score_job_v2")
    case.start_workers(2, case.env(), new)
    case.enqueue_here(case.make_night())
    case.inject("other release")
    with case.rig.redis.connect() as client:
        case.wait(lambda: int(client.get("nightread:refused") or 0), "a message to be refused")
        case.nap(1, 6)
        case.inject("message refused", int(client.get("nightread:refused")))
    old = case.fleet.workers[0]
    old.env = new
    old.send(signal.SIGTERM)
    violations = case.finish()
    case.rig.stop_fleet()
    return violations
