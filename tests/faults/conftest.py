"""Fixtures of the fault table: services, workers, and the seeds of the fault schedules."""

import json
from collections import Counter
from pathlib import Path

import pytest

from nightread.failpoints import Point
from tests.faults.case import Case
from tests.faults.forking import Forker
from tests.faults.nights import make_pool
from tests.faults.rig import run_rig

#: As many as a small machine has cores.
_FORKERS = 2
#: What tests have counted, in whichever process they ran.
_RECORD = pytest.StashKey[list[dict]]()
_SWEPT = pytest.StashKey[list[dict]]()
_COUNTED = {"played": _RECORD, "swept": _SWEPT}
_OUTCOME = pytest.StashKey[str]()


def pytest_addoption(parser):
    group = parser.getgroup("faults")
    group.addoption("--seeds", type=int, default=1, help="number of seeds for each row of the fault table")
    group.addoption("--seed", type=int, default=None, help="only this seed, as printed by a failure")
    group.addoption("--record", type=Path, default=None, help="JSON file for the counts")


def pytest_configure(config):
    config.stash[_RECORD] = []
    config.stash[_SWEPT] = []
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist hands its reports on
        config.pluginmanager.register(_Counting(config))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[_OUTCOME] = report.outcome
    return report


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        seed = metafunc.config.getoption("--seed", None)
        seeds = range(1, metafunc.config.getoption("--seeds", 1) + 1) if seed is None else [seed]
        metafunc.parametrize("seed", seeds, ids=lambda seed: f"seed-{seed}")


@pytest.fixture(scope="session")
def forkers(tmp_path_factory):
    """Processes that run commands as forks."""
    forkers = [Forker(tmp_path_factory.mktemp("forker")) for _ in range(_FORKERS)]
    yield forkers
    for forker in forkers:
        forker.close()


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def rig(pool, tmp_path_factory):
    with run_rig(tmp_path_factory.mktemp("rig"), pool) as rig:
        yield rig


@pytest.fixture
def case(rig, seed, is_long, tmp_path, request):
    """A case of the fault table; its counts are added to the record."""
    case = Case(rig, seed, tmp_path, is_long=is_long)
    yield case
    case.clear()
    outcome = request.node.stash.get(_OUTCOME, "skipped")
    if outcome == "failed":
        rig.stop_fleet()  # its workers must not affect the next case
    if "row" in request.fixturenames:
        row = request.getfixturevalue("row").number
        entry = {"row": row, "seed": seed, "outcome": outcome, **vars(case.counts), "faults": dict(case.counts.faults)}
        request.node.user_properties.append(("played", entry))


class _Counting:
    """Collect the counts of all tests in pytest's main process."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        if report.when != "teardown":
            return
        for name, entry in report.user_properties:
            if name in _COUNTED:
                self.config.stash[_COUNTED[name]].append(entry)
        if file := self.config.getoption("--record", None):
            file.write_text(json.dumps(self.config.stash[_RECORD], indent=1))


def pytest_terminal_summary(terminalreporter, config):
    """Print the number of crashes and cases: a sweep without crashes proves nothing."""
    swept = config.stash[_SWEPT]
    for database in sorted({entry["database"] for entry in swept}):
        entries = [entry for entry in swept if entry["database"] == database]
        points = {point for entry in entries for point in entry["points"]}
        crashes, recoveries = (sum(entry[name] for entry in entries) for name in ("crashes", "recoveries"))
        terminalreporter.write_line(
            f"failpoint sweep, {database}: {crashes} crashes and faults at {len(points)} of {len(Point)} points, "
            f"{recoveries} recoveries; not at {', '.join(sorted(set(Point) - points)) or 'none'}"
        )
    record = config.stash[_RECORD]
    if not record:
        return
    faults = sum((Counter(entry["faults"]) for entry in record), Counter())
    sums = {name: sum(entry[name] for entry in record) for name in ("scans", "redeliveries", "splits", "sweeps")}
    summary = ", ".join(f"{count:,} {name}" for name, count in sums.items())
    terminalreporter.write_line(f"fault table: {len(record)} cases, {faults.total():,} faults, {summary}")
