"""The page of queries: each runs on both databases and finds something; its tables are the comments of the views."""

import re

import psycopg
import pytest
from sqlalchemy import inspect, text, update

from db.engine import reading, write
from db.runs import NewScan
from db.tables import scans
from db.types import ScanStatus
from tests.db_factories import new_model
from tests.factories import ROOT
from tests.project import read
from tests.web_page import add_night

PAGE = "docs/queries.md"
BLOCKS = re.findall(r"(?ms)^([^\n`|]+):\n\n((?:```sql\n.*?```\n\n?)+)", read(PAGE))
QUERIES = [(title, sql) for title, blocks in BLOCKS for sql in re.findall(r"```sql\n(.*?)```", blocks, re.DOTALL)]


def decide(score):
    return "pneumonia" if score >= 0.5 else "uncertain" if score >= 0.4 else "normal"


@pytest.fixture
def nights(engine):
    """Two nights of two models over one folder, with everything that the questions ask for."""
    found = [NewScan(f"/scans/ward-3/{number:05}.dcm", 1000) for number in range(5)]
    scores = [0.45, 0.9, 0.1, ScanStatus.REJECTED, ScanStatus.FAILED]
    add_night(engine, scores, found=found, decide=decide)
    second = add_night(engine, scores, found=found, decide=decide, model=new_model(digest="e" * 64, version="2"))

    def tie(connection):
        """Give the scans of both nights the same contents, and two files the same one."""
        paths = {scan.path: f"{number:064x}" for number, scan in enumerate(found, start=900)}
        paths[found[2].path] = paths[found[1].path]
        for old, path in connection.execute(text("SELECT sha256, path FROM scans WHERE sha256 IS NOT NULL")).all():
            new = paths[path]
            connection.execute(text("UPDATE scans SET sha256 = :new WHERE sha256 = :old"), {"new": new, "old": old})
        connection.execute(update(scans).values(study_uid="1.2.3"))
        # The second model said the same, except where the first was not sure.
        again = "UPDATE worklist_rows SET decision = 'normal' WHERE decision = 'uncertain' AND run_id = :second"
        connection.execute(text(again), {"second": second})

    write(engine, tie)
    add_night(engine, [0.45], found=[NewScan("/scans/ward-1/1.dcm", 1)], decide=decide)
    return engine


def test_the_page_has_twenty_questions():
    assert len({title for title, _ in QUERIES}) >= 20


def test_the_queries_of_the_page_run_and_find_rows(nights):
    found = {}
    with reading(nights) as connection:
        for title, sql in QUERIES:
            only = re.match(r"-- (PostgreSQL|SQLite)\n", sql)
            if only is None or only[1].lower() == nights.dialect.name:
                found[title] = len(connection.execute(text(sql)).all())
    assert len(found) >= 20
    assert {title for title, rows in found.items() if not rows} == set()


def test_the_page_describes_each_column_as_the_database_does(postgres_engine):
    for view in ("results", "studies", "nights", "folders"):
        _compare_with_page(postgres_engine, view)


def _compare_with_page(postgres_engine, view):
    section = read(PAGE).partition(f"### `{view}`\n")[2].partition("\n##")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    assert told == {column["name"]: column["comment"] for column in inspect(postgres_engine).get_columns(view)}


def test_the_reader_role_reads_all_views_and_changes_nothing(postgres_engine):
    script = (ROOT / "docs/reader.sql").read_text(encoding="utf-8")
    url = postgres_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(url, autocommit=True) as owner:
            for _ in range(2):  # a second time does no harm
                owner.execute(script)
            owner.execute("CREATE TABLE later AS SELECT 1 AS one")
        reader_url = postgres_engine.url.set(drivername="postgresql", username="nightread_reader")
        with psycopg.connect(reader_url.render_as_string(hide_password=False), autocommit=True) as reader:
            for name in ("results", "latest_results", "studies", "nights", "folders", "scans", "later"):
                reader.execute(f"SELECT count(*) FROM {name}")
            assert reader.execute("SHOW random_page_cost").fetchone() == ("1.1",)
            for statement in ("DELETE FROM scans", "CREATE TABLE mine (one int)"):
                with pytest.raises(psycopg.Error):
                    reader.execute(statement)
            reader.execute("SET default_transaction_read_only = off")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("DELETE FROM scans")
    finally:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute("DROP TABLE IF EXISTS later")
            owner.execute("DROP OWNED BY nightread_reader")
            owner.execute("DROP ROLE IF EXISTS nightread_reader")
