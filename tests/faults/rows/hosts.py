"""Rows 31 and 31b: a fleet of hosts, of which each has a fault of its own, and whose database fails over meanwhile."""

import contextlib

from sqlalchemy import make_url

from tests.faults.case import Case
from tests.faults.checker import Violation
from tests.faults.hosts import Host, run_hosts
from tests.faults.rig import DATABASE, Rig
from tests.faults.rows.table import row
from tests.faults.servers import PostgresPair, run_postgres_pair
from tests.services import run_pgbouncer

_INJECTION = (
    "{hosts}, each in a network of its own with its own process ids, host name and clock (up to two hours wrong), "
    "reach PostgreSQL through PgBouncer; one host is cut off for longer than its lease, the links of another are slow "
    "and are reset{more}; meanwhile the primary is killed and its synchronous standby promoted"
)
_OUTCOME = "the others do the work of a host that is away; each takes jobs again on the promoted standby"


@row(
    "31",
    "two hosts, and everything between them",
    injection=_INJECTION.format(hosts="two hosts", more=""),
    outcome=_OUTCOME,
    own_workers=True,
)
def two_hosts(case: Case) -> list[Violation]:
    return _play(case, 2)


@row(
    "31b",
    "four hosts, and everything between them",
    injection=_INJECTION.format(hosts="four hosts", more=", a third loses its power"),
    outcome=_OUTCOME,
    own_workers=True,
    is_long=True,
)
def four_hosts(case: Case) -> list[Violation]:
    return _play(case, 4)


def _play(case: Case, count: int) -> list[Violation]:
    case.rig.stop_fleet()  # its workers would take messages of a database that they do not know
    with contextlib.ExitStack() as held:
        pair = held.enter_context(run_postgres_pair())
        folder = case.folder / "rig"
        (folder / "gates").mkdir(parents=True)
        rig = Rig(folder, case.rig.redis, pair, case.rig.redis_proxy, pair.address, case.rig.pool)
        rig.make_database()
        pooled = run_pgbouncer(folder, pair.url(DATABASE), server_login_retry=1, query_wait_timeout=5)
        port = make_url(held.enter_context(pooled)).port
        clocks_h = [case.choose.choice([-2, 0, 2]) for _ in range(count)]
        with case.within(rig) as inner, run_hosts(inner, clocks_h, port) as hosts:
            inner.enqueue_here(inner.make_night(30 * count))
            _inject(inner, hosts, pair)
            return inner.finish()


def _inject(case: Case, hosts: list[Host], pair: PostgresPair) -> None:
    cut, lossy, *others = case.choose.sample(hosts, len(hosts))
    for link in lossy.links:
        link.slow(latency_s=case.choose.uniform(0.01, 0.1))
    case.inject("links slow")
    case.wait(lambda: _holds(case, cut), "the host to hold a job")
    taken = _count_taken(case)
    cut.cable.pull()
    case.inject("host cut off")
    if others:
        case.wait(lambda: _holds(case, others[0]), "the host to hold a job")
        others[0].worker.kill()
        case.inject("power lost")
    for _ in range(3):
        case.nap(0.2, 0.8)
        case.choose.choice(lossy.links).reset()
        case.inject("link reset")
    fails_first = case.choose.random() < 0.5
    if fails_first:
        _fail_over(case, pair)
    case.wait(lambda: _count_taken(case) > taken, "jobs of a host that is away to be taken")
    case.nap(0.5, 3)
    cut.cable.plug()
    if not fails_first:
        _fail_over(case, pair)
    for link in lossy.links:
        link.heal()


def _fail_over(case: Case, pair: PostgresPair) -> None:
    assert case.share_done() < 1, "the night ended before the primary did"
    pair.fail_over()
    case.inject("primary killed, standby promoted")


def _holds(case: Case, host: Host) -> int:
    query = "SELECT count(*) FROM jobs WHERE status = 'leased' AND lease_holder LIKE :holder"
    return case.query(query, holder=f"{host.name}:%")


def _count_taken(case: Case) -> int:
    """Count the jobs that were taken from a holder whose lease had expired."""
    return case.query("SELECT count(*) FROM jobs WHERE lease_token > 1")
