"""Partitions on PostgreSQL: scans and their worklist rows by the month of their run; SQLite has none.

An id of `scans` begins with its month, so that the key alone says in which partition a row lies: no key, query or
foreign key holds a month. Only the catalog tells whether a database is partitioned. Where the partition of a month is
missing, ids go on in the one before.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, text

from db.dialects import allow_slow_statement, share_advisory_lock, try_advisory_lock, wait_for_advisory_lock
from db.engine import read_clock, write

#: Tables with a partition for each month, and the column that holds the scan's id.
BY_MONTH: Final = {"scans": "id", "worklist_rows": "scan_id"}
#: Tables whose rows are spread over partitions by the digest of their content.
BY_DIGEST: Final = ("predictions", "measurements")
#: Partitions that are made ahead of time, in months.
MONTHS_AHEAD: Final = 3

#: Ids of a month. A month's first id stays below 2^53, so that JSON holds it exactly, for 70,000 years.
_IDS: Final = 10**10
# Whoever makes a run shares this lock; who is alone may begin a month. So the scans of a run have one partition, whose
# unique index on run and path sees them all.
_MONTH_LOCK: Final = 7_201_123
_UPKEEP_LOCK: Final = 7_201_124


def count_months(time: datetime) -> int:
    """Return the number of a time's month, from January of year 0."""
    return time.year * 12 + time.month - 1


def first_id(month: int) -> int:
    """Return the first id of a month's scans."""
    return month * _IDS


def name_partition(table: str, month: int) -> str:
    """Return the name of a month's partition, such as `scans_2026_11`."""
    return f"{table}_{month // 12:04}_{month % 12 + 1:02}"


def is_partitioned(connection: Connection, table: str = "scans") -> bool:
    """Return whether a table is partitioned."""
    if connection.dialect.name != "postgresql":
        return False
    query = text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(:table)")
    return bool(connection.execute(query, {"table": table}).scalar())


def begin_month(connection: Connection, now: datetime) -> None:
    """Let the ids of new scans begin with this month, if it has a partition; call it before a run's scans are written.

    Args:
        connection: in a transaction; a partitioned database holds a shared lock until its end.
        now: the database's time.
    """
    if connection.dialect.name != "postgresql":
        return
    month = count_months(now)
    given = {"first": first_id(month), **{table: name_partition(table, month) for table in BY_MONTH}}
    state = connection.execute(_STATE, given).one()
    if not state.is_partitioned:
        return
    if state.is_due:
        with connection.begin_nested() as alone:
            if try_advisory_lock(connection, _MONTH_LOCK):
                connection.execute(_BEGIN, given)
            alone.rollback()  # gives the lock back at once; no rollback takes a sequence back
    share_advisory_lock(connection, _MONTH_LOCK)


def list_months(connection: Connection) -> list[int]:
    """Return the months that have partitions, in order; `..._before` is none of them."""
    found = connection.execute(_MONTHS, {"table": "scans"}).scalars()
    return sorted(int(year) * 12 + int(month) - 1 for _, year, month in (name.split("_") for name in found))


def find_missing_months(connection: Connection, ahead: int, now: datetime) -> list[int]:
    """Return this month and those `ahead`, without those that have partitions."""
    there = list_months(connection)
    first = count_months(now)
    # A month before all others would lie within `..._before`.
    return [month for month in range(first, first + ahead + 1) if month not in there and month >= min(there, default=0)]


def keep_months(engine: Engine, ahead: int = MONTHS_AHEAD, now: datetime | None = None) -> list[str]:
    """Make the missing partitions of this month and those `ahead`; returns the names of those of `scans`.

    Does nothing where tables are not partitioned, or belong to a role of which this one is no member.

    Args:
        engine: the database.
        ahead: number of months.
        now: a time of the first of them; None: the database's.

    Raises:
        DatabaseUnavailable: the database does not answer, or a lock was not free for too long.
    """
    if engine.dialect.name != "postgresql":
        return []

    def work(connection: Connection) -> list[str]:
        if not is_partitioned(connection) or not connection.execute(_MAY_CHANGE).scalar():
            return []
        first = now or read_clock(connection)
        return add_missing_months(connection, ahead, first) if find_missing_months(connection, ahead, first) else []

    if made := write(engine, work):
        write(engine, gather_statistics)
    return made


def gather_statistics(connection: Connection) -> None:
    """Let the planner look at whole tables: by itself PostgreSQL looks at their partitions alone."""
    allow_slow_statement(connection)
    run_ddl(connection, [f"ANALYZE {table}" for table in (*BY_MONTH, *BY_DIGEST)])


def add_missing_months(connection: Connection, ahead: int, now: datetime) -> list[str]:
    """Make what `find_missing_months` returns; returns the names of the partitions of `scans`."""
    # Workers wait behind this while it waits, so it gives up soon, and is tried again.
    run_ddl(connection, ["SET LOCAL lock_timeout = '1s'"])
    wait_for_advisory_lock(connection, _UPKEEP_LOCK)
    missing = find_missing_months(connection, ahead, now)
    for month in missing:
        add_month(connection, month)
    return [name_partition("scans", month) for month in missing]


def add_month(connection: Connection, month: int) -> None:
    """Make the partitions of a month; attaching them waits for no reader."""
    for table in BY_MONTH:
        part = name_partition(table, month)
        # Local indexes, which their parent does not have: a unique one without the key of the partitions.
        local = connection.execute(_LOCAL_INDEXES, {"table": table, "part": part}).scalars().all()
        run_ddl(connection, [f"CREATE TABLE {part} (LIKE {table} INCLUDING ALL)"])
        run_ddl(connection, [*local, *write_owner(connection, table, part), *write_revokes(connection, part)])
        bounds = f"FROM ({first_id(month)}) TO ({first_id(month + 1)})"
        run_ddl(connection, [f"ALTER TABLE {table} ATTACH PARTITION {part} FOR VALUES {bounds}"])


def begin_ids(connection: Connection, month: int) -> None:
    """Let ids begin with a month now; the caller keeps all others from writing scans."""
    connection.execute(_BEGIN, {"first": first_id(month)})


def list_full(connection: Connection) -> list[tuple[str, str]]:
    """Return the partitions of scans and of their worklist rows that get no new ids, oldest first, if they may go.

    Transactions that have got their ids may still write.
    """
    if not is_partitioned(connection) or not connection.execute(_MAY_CHANGE).scalar():
        return []
    last = connection.execute(text(f"SELECT {_LAST_ID}")).scalar() or 0
    months = [month for month in list_months(connection) if first_id(month + 1) <= last]
    before = connection.execute(text("SELECT to_regclass('scans_before')::text")).scalar()
    parts = [(before, "worklist_rows_before")] if before and first_id(min(list_months(connection))) <= last else []
    return [*parts, *((name_partition("scans", month), name_partition("worklist_rows", month)) for month in months)]


def run_ddl(connection: Connection, statements: Sequence[str]) -> None:
    """Execute statements as they are."""
    for statement in statements:
        connection.exec_driver_sql(statement.replace("%", "%%"))


def write_owner(connection: Connection, of: str, table: str) -> Iterator[str]:
    """Yield the statement that gives a new table the owner of another one."""
    query = text("SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass(:table)")
    owner, own = (connection.execute(query, {"table": name}).scalar() for name in (of, table))
    if owner != own:
        yield f"ALTER TABLE {table} OWNER TO {owner}"


def write_revokes(connection: Connection, table: str) -> list[str]:
    """Return statements that take what default privileges gave others: rows are read through the whole table."""
    return list(connection.execute(_REVOKES, {"table": table}).scalars())


_LAST_ID: Final = "pg_sequence_last_value(pg_get_serial_sequence('scans', 'id')::regclass)"
_STATE: Final = text(
    "SELECT relkind = 'p' AS is_partitioned, relkind = 'p' "  # noqa: S608  # our own names
    "AND (SELECT count(*) = 2 FROM pg_inherits WHERE (inhparent, inhrelid) IN "
    "((to_regclass('scans'), to_regclass(:scans)), (to_regclass('worklist_rows'), to_regclass(:worklist_rows)))) "
    f"AND coalesce({_LAST_ID}, 0) < :first "
    "AND has_sequence_privilege(pg_get_serial_sequence('scans', 'id'), 'UPDATE') AS is_due "
    "FROM pg_class WHERE oid = to_regclass('scans')"
)
_BEGIN: Final = text(
    f"SELECT setval(pg_get_serial_sequence('scans', 'id'), :first, false) WHERE coalesce({_LAST_ID}, 0) < :first"
)
_MAY_CHANGE: Final = text(
    "SELECT pg_has_role(relowner, 'USAGE') AND has_schema_privilege(relnamespace, 'CREATE') "
    "FROM pg_class WHERE oid = to_regclass('scans')"
)
_MONTHS: Final = text(
    "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
    "WHERE inhparent = to_regclass(:table) AND relname ~ '^[a-z]+_[0-9]{4}_[0-9]{2}$'"
)
_LOCAL_INDEXES: Final = text(
    "SELECT format('CREATE %sINDEX %I ON %I %s', CASE WHEN indisunique THEN 'UNIQUE ' ELSE '' END, "
    "'uq_' || :part || '_' || row_number() OVER (ORDER BY index.relname), CAST(:part AS text), "
    "substring(pg_get_indexdef(indexrelid) FROM ' (USING .*)$')) "
    "FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid "
    "WHERE NOT index.relispartition AND indrelid = ("
    "SELECT inhrelid FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
    "WHERE inhparent = to_regclass(:table) ORDER BY relname LIKE '%\\_before', relname DESC LIMIT 1)"
)
_REVOKES: Final = text(
    "SELECT DISTINCT format('REVOKE ALL ON %s FROM %s', to_regclass(:table), "
    "CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END) "
    "FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass(:table) AND grantee <> relowner"
)
