"""The change of a PostgreSQL database to partitions, in one transaction.

Scans and worklist rows that are there become the partition `..._before` of their new table as they lie; contents are
copied. Each new table takes the name, keys, grants and comments of the one that it replaces, and each view that reads
it is written again, since a view holds its tables by number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

from db.dialects import allow_slow_statement, wait_for_advisory_lock
from db.engine import read_clock, reading, write
from db.partitions import (
    BY_DIGEST,
    BY_MONTH,
    MONTHS_AHEAD,
    add_missing_months,
    add_month,
    begin_ids,
    count_months,
    find_missing_months,
    first_id,
    gather_statistics,
    is_partitioned,
    name_partition,
    run_ddl,
    write_owner,
    write_revokes,
)
from db.schema import SCHEMA_LOCK
from nightread.errors import SettingsError

#: A job's statements name contents of all parts, so each part costs the planner time: sixteen made a job half as dear
#: again, four a fifth (docs/scaling.md).
_HASH_PARTS: Final = 4


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """What `partition` did, or would do.

    Attributes:
        tables: tables that became partitioned.
        copied: rows of them that were copied; an estimate if nothing was done.
        months: names of the partitions of `scans` that were made.
    """

    tables: tuple[str, ...] = ()
    copied: int = 0
    months: tuple[str, ...] = ()


def plan_partitions(engine: Engine, ahead: int = MONTHS_AHEAD) -> PartitionChange:
    """Return what `partition` would do, and do nothing.

    Raises:
        SettingsError: the database is SQLite, or its tables have something that would be lost.
        DatabaseUnavailable: the database does not answer.
    """
    _refuse_sqlite(engine)
    with reading(engine) as connection:
        now = read_clock(connection)
        if is_partitioned(connection):
            names = tuple(name_partition("scans", month) for month in find_missing_months(connection, ahead, now))
            return PartitionChange(months=names)
        _refuse_extras(connection)
        rows = connection.execute(_ESTIMATE, {"tables": list(BY_DIGEST)}).scalar_one()
        first = count_months(now)
        names = tuple(name_partition("scans", month) for month in range(first, first + ahead + 1))
        return PartitionChange((*BY_MONTH, *BY_DIGEST), rows, names)


def partition(engine: Engine, ahead: int = MONTHS_AHEAD, now: datetime | None = None) -> PartitionChange:
    """Partition the tables, unless they are, and make the partitions of this month and those `ahead`.

    Until the transaction ends, nobody reads or writes the tables.

    Args:
        engine: the database, its schema checked.
        ahead: number of months.
        now: a time of the first of them; None: the database's.

    Raises:
        SettingsError: the database is SQLite, or its tables have something that would be lost.
        DatabaseUnavailable: the database does not answer, this role may not change its tables, or a worker held a lock
            for too long; nothing is changed.
    """
    _refuse_sqlite(engine)

    def work(connection: Connection) -> PartitionChange:
        allow_slow_statement(connection)
        wait_for_advisory_lock(connection, SCHEMA_LOCK)
        time = now or read_clock(connection)
        if is_partitioned(connection):
            return PartitionChange(months=tuple(add_missing_months(connection, ahead, time)))
        tables = (*BY_MONTH, *BY_DIGEST)
        # All that foreign keys name, too, in the order in which workers write.
        run_ddl(connection, [f"LOCK TABLE models, runs, jobs, {', '.join(reversed(tables))} IN ACCESS EXCLUSIVE MODE"])
        _refuse_extras(connection)
        month = count_months(time)
        views = [row.definition for row in connection.execute(_VIEWS, {"tables": list(tables)})]
        for table, key in BY_MONTH.items():
            _partition_by_month(connection, table, key, month)
        copied = sum(_partition_by_digest(connection, table) for table in BY_DIGEST)
        run_ddl(connection, views)
        run_ddl(connection, [f"DROP TABLE {table}_before" for table in BY_DIGEST])
        for number in range(month, month + ahead + 1):
            add_month(connection, number)
        begin_ids(connection, month)
        gather_statistics(connection)
        names = (name_partition("scans", number) for number in range(month, month + ahead + 1))
        return PartitionChange(tables, copied, tuple(names))

    return write(engine, work)


def _refuse_sqlite(engine: Engine) -> None:
    if engine.dialect.name != "postgresql":
        raise SettingsError(
            "only PostgreSQL has partitions, and the database is SQLite: keep it as it is, or point "
            "NIGHTREAD_DATABASE_URL at a server"
        )


def _refuse_extras(connection: Connection) -> None:
    """Refuse tables with what Nightread does not make and a new table would not have."""
    found = connection.execute(_EXTRAS, {"tables": [*BY_MONTH, *BY_DIGEST]}).first()
    if found is not None:
        raise SettingsError(f"{found.thing} hangs on the table {found.of}: drop it first, and make it again afterwards")


def _partition_by_month(connection: Connection, table: str, key: str, month: int) -> None:
    old = _Table(connection, table)
    old.replace(f"RANGE ({key})", key)
    run_ddl(connection, old.constraints + old.indexes)
    bounds = f"FROM (MINVALUE) TO ({first_id(month)})"
    run_ddl(connection, [f"ALTER TABLE {table} ATTACH PARTITION {table}_before FOR VALUES {bounds}"])
    run_ddl(connection, old.referrers)


def _partition_by_digest(connection: Connection, table: str) -> int:
    """Copy the rows of a table into partitions; returns their number."""
    old = _Table(connection, table)
    old.replace("HASH (sha256)", "sha256")
    for number in range(_HASH_PARTS):
        part = f"{table}_{number:02}"
        of = f"PARTITION OF {table} FOR VALUES WITH (MODULUS {_HASH_PARTS}, REMAINDER {number})"
        run_ddl(connection, [f"CREATE TABLE {part} {of}"])
        run_ddl(connection, [*write_owner(connection, table, part), *write_revokes(connection, part)])
    copied = connection.exec_driver_sql(f"INSERT INTO {table} SELECT * FROM {table}_before").rowcount  # noqa: S608  # our own names
    # After the rows: an index that is built at once is smaller, and keys are checked all together.
    run_ddl(connection, old.constraints + old.indexes + old.referrers)
    return copied


class _Table:
    """A table that is replaced, as it was."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self._name = connection, name
        self.constraints = self._read(_CONSTRAINTS)
        self.referrers = self._read(_REFERRERS)
        self.indexes: list[str] = []
        self._grants = self._read(_GRANTS)
        self._sequences = self._read(_SEQUENCES)

    def _read(self, query: Any, **given: str) -> list[str]:
        return list(self._connection.execute(query, {"table": self._name, **given}).scalars())

    def replace(self, by: str, key: str) -> None:
        """Put an empty partitioned table in its place; it gets the suffix `_before`.

        Args:
            by: how rows are spread, in SQL.
            key: the column that says it; a unique index without it stays with the partition alone.
        """
        name, before = self._name, f"{self._name}_before"
        self.indexes = self._read(_INDEXES, key=key)
        run_ddl(self._connection, self._read(_RELEASES) + self._read(_RENAMES))
        like = f"(LIKE {before} INCLUDING ALL EXCLUDING INDEXES) PARTITION BY {by}"
        run_ddl(self._connection, [f"ALTER TABLE {name} RENAME TO {before}", f"CREATE TABLE {name} {like}"])
        run_ddl(self._connection, list(self._settle()))

    def _settle(self) -> Iterator[str]:
        yield from write_owner(self._connection, f"{self._name}_before", self._name)
        yield from write_revokes(self._connection, self._name)
        yield from self._grants
        yield from self._sequences
        yield from self._read(_COMMENT)


def _list(*lines: str) -> Any:
    return text(" ".join(lines))


_ESTIMATE: Final = _list(
    "SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_class",
    "WHERE oid = ANY (CAST(:tables AS regclass[]))",
)
_VIEWS: Final = _list(
    "SELECT DISTINCT format('CREATE OR REPLACE VIEW %s%s AS %s', view.oid::regclass,",
    "' WITH (' || array_to_string(view.reloptions, ', ') || ')', pg_get_viewdef(view.oid)) AS definition",
    "FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid JOIN pg_class AS view ON view.oid = ev_class",
    "WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass AND view.relkind = 'v'",
    "AND refobjid = ANY (CAST(:tables AS regclass[]))",
)
_EXTRAS: Final = _list(
    "SELECT 'the trigger ' || tgname AS thing, tgrelid::regclass AS of FROM pg_trigger",
    "WHERE NOT tgisinternal AND tgrelid = ANY (CAST(:tables AS regclass[]))",
    "UNION ALL SELECT 'the policy ' || polname, polrelid::regclass FROM pg_policy",
    "WHERE polrelid = ANY (CAST(:tables AS regclass[]))",
    "UNION ALL SELECT 'the publication ' || pubname, prrelid::regclass FROM pg_publication_rel",
    "JOIN pg_publication ON pg_publication.oid = prpubid WHERE prrelid = ANY (CAST(:tables AS regclass[]))",
    "UNION ALL SELECT 'the materialized view ' || ev_class::regclass, refobjid::regclass FROM pg_depend",
    "JOIN pg_rewrite ON pg_rewrite.oid = objid JOIN pg_class ON pg_class.oid = ev_class",
    "WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass AND relkind = 'm'",
    "AND refobjid = ANY (CAST(:tables AS regclass[]))",
)
_CONSTRAINTS: Final = _list(
    "SELECT format('ALTER TABLE %I ADD CONSTRAINT %I %s', CAST(:table AS text), conname, pg_get_constraintdef(oid))",
    "FROM pg_constraint WHERE conrelid = to_regclass(:table) AND contype IN ('p', 'f') ORDER BY contype DESC",
)
# Foreign keys of other tables, which name the one that is replaced.
_REFERRERS: Final = _list(
    "SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))",
    "FROM pg_constraint WHERE confrelid = to_regclass(:table) AND conparentid = 0",
)
_RELEASES: Final = _list(
    "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)",
    "FROM pg_constraint WHERE confrelid = to_regclass(:table) AND conparentid = 0",
)
_INDEXES: Final = _list(
    "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass(:table) AND NOT indisprimary",
    "AND (NOT indisunique OR (SELECT attnum FROM pg_attribute WHERE attrelid = indrelid AND attname = :key)",
    "= ANY (indkey)) ORDER BY 1",
)
_RENAMES: Final = _list(
    "SELECT format('ALTER INDEX %s RENAME TO %I', indexrelid::regclass, relname || '_before')",
    "FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = to_regclass(:table)",
)
_TO: Final = (
    "TO ' || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END"
    " || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END"
)
# A role that may insert scans gets UPDATE of their sequence, with which the first run of a month begins it.
_GRANTS: Final = _list(
    f"SELECT 'GRANT ' || privilege_type || ' ON ' || :table || ' {_TO}",
    "FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass(:table) AND grantee <> relowner",
    f"UNION ALL SELECT format('GRANT %s (%I) ON %s ', privilege_type, attname, CAST(:table AS text)) || '{_TO}",
    "FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)",
    "WHERE pg_class.oid = to_regclass(:table) AND grantee <> relowner",
    "UNION ALL SELECT format('GRANT UPDATE ON SEQUENCE %s ', pg_get_serial_sequence(:table, 'id'))",
    f"|| '{_TO}",
    "FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass(:table) AND grantee <> relowner",
    "AND privilege_type = 'INSERT' AND :table = 'scans'",
)
_SEQUENCES: Final = _list(
    "SELECT format('ALTER SEQUENCE %s OWNED BY %I.%I', objid::regclass, CAST(:table AS text), attname)",
    "FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid",
    "JOIN pg_sequence ON seqrelid = objid WHERE classid = 'pg_class'::regclass AND deptype = 'a'",
    "AND refclassid = 'pg_class'::regclass AND refobjid = to_regclass(:table)",
)
_COMMENT: Final = _list(
    "SELECT format('COMMENT ON TABLE %I IS %L', CAST(:table AS text), obj_description(oid, 'pg_class')) FROM pg_class",
    "WHERE oid = to_regclass(:table || '_before') AND obj_description(oid, 'pg_class') IS NOT NULL",
)
