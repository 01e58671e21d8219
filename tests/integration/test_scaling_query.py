"""The query by which KEDA scales the workers, on PostgreSQL."""

from sqlalchemy import text, update

from db.engine import make_engine, reading, write
from db.schema import upgrade
from db.tables import jobs
from db.types import database_now
from tests.db_factories import add_job, claim, shift_time
from tests.kubernetes import read_documents


def test_counts_due_and_leased_jobs_and_no_other(postgres_url):
    (trigger,) = read_documents()["keda/scaled-object.yaml:ScaledObject"]["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    engine = make_engine(postgres_url)
    upgrade(engine)

    def ask():
        with reading(engine) as connection:
            return connection.execute(text(query)).scalar_one()

    assert ask() == 0
    due, leased, back_off, _embedded = (add_job(engine, embedded=embedded) for embedded in (False, False, False, True))
    assert ask() == 3
    claim(engine, leased)
    assert ask() == 3
    put_off = update(jobs).where(jobs.c.id == back_off).values(not_before=database_now(3600))
    write(engine, lambda connection: connection.execute(put_off))
    assert ask() == 2
    shift_time(engine, back_off, "not_before", -7200)
    assert ask() == 3
    write(engine, lambda connection: connection.execute(text(f"UPDATE jobs SET status = 'done' WHERE id = '{due}'")))
    assert ask() == 2
    with reading(engine) as connection:
        plan = "\n".join(connection.execute(text(f"EXPLAIN {query}")).scalars())
    assert "scans" not in plan
    engine.dispose()
