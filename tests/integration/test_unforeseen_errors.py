"""Paths hold patients' names, and an error that no one foresaw ends in a traceback or a log."""

import traceback

import pytest
import sqlalchemy
from sqlalchemy import select, text

from db.bulk import copy_in
from db.engine import reading, write
from db.tables import scans

PATH = "/night/MUELLER^ANNA/1.dcm"


def show(caught):
    return "".join(traceback.format_exception(caught.value))


def test_no_value_of_a_row_is_shown(engine):
    statements = ["SELECT nothing FROM scans WHERE path = :path"]
    if engine.dialect.name == "postgresql":
        statements += [f"SELECT CAST(:path AS {kind})" for kind in ("integer", "uuid", "jsonb", "timestamp")]
    for statement in statements:
        with pytest.raises(sqlalchemy.exc.DBAPIError) as caught, reading(engine) as connection:
            connection.execute(text(statement), {"path": PATH})
        assert "MUELLER" not in show(caught)


def test_a_row_that_breaks_a_constraint_is_not_shown(engine):
    def work(connection):
        connection.execute(text("CREATE TEMP TABLE held (path varchar(90) UNIQUE)"))
        for _ in range(2):
            connection.execute(text("INSERT INTO held VALUES (:path)"), {"path": PATH})

    with pytest.raises(sqlalchemy.exc.IntegrityError) as caught:
        write(engine, work)
    assert "MUELLER" not in show(caught)
    assert "held" in str(caught.value)


def test_a_copied_row_is_not_shown(engine):
    with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
        write(engine, lambda connection: copy_in(connection, scans, ["path", "id"], [[PATH, PATH]]))
    assert "MUELLER" not in show(caught)


def test_a_value_that_cannot_be_bound_is_not_shown(engine):
    query = select(scans.c.id).where(
        scans.c.path == text("nothing"), scans.c.size_bytes == sqlalchemy.bindparam("size")
    )
    with pytest.raises(sqlalchemy.exc.StatementError) as caught, reading(engine) as connection:
        connection.execute(query, {"path": PATH})
    assert "MUELLER" not in show(caught)
