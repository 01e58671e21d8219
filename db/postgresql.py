"""Engines of PostgreSQL servers, direct or behind a pooler such as PgBouncer in transaction mode.

A pooler lends a server connection for one transaction. So nothing here lives in a session: limits are set at the start
of each transaction, and statements are not prepared on the server. A direct connection takes the same path.
"""

import difflib
import re
import shlex
from typing import Final

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError

from nightread.errors import DatabaseUnavailable

#: Connections that a process opens at most: its job, its heartbeat, its sweeper, and two more.
POOL_SIZE: Final = 5
#: A server that only reads: it was demoted, or its disk is being looked after. The connection is given up.
READ_ONLY_SQLSTATE: Final = "25006"

#: A prepared statement that is unknown, or already there: a pooler has lent another session.
LOST_STATEMENT_SQLSTATES: Final = frozenset({"26000", "42P05"})
#: The role may not do that with that table.
NO_PERMISSION_SQLSTATE: Final = "42501"
#: No schema of the search path is there to make tables in.
NO_SCHEMA_SQLSTATE: Final = "3F000"
#: Class of errors by which the server says that what lies on its disk is damaged.
DAMAGED_SQLSTATES: Final = frozenset({"XX001", "XX002"})

# Settings of each transaction; those in the URL's `options` win.
_LIMITS: Final = {
    "statement_timeout": "120s",
    "lock_timeout": "20s",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    # psycopg reads no other; a role or a database may have one of its country.
    "datestyle": "ISO",
    # The default cost of a random page is that of a rotating disk: for a night's 20,000 rows of two million the planner
    # would read the whole table. Compiling a statement takes longer than most of them run.
    "random_page_cost": "1.1",
    "jit": "off",
}

# Parameters in the URL win.
_CONNECTION: Final[dict[str, str | int]] = {
    "application_name": "nightread",
    # Without it psycopg returns bytes for text of a database in SQL_ASCII.
    "client_encoding": "utf8",
    # Of several hosts the one that writes; a demoted server is refused.
    "target_session_attrs": "read-write",
    # Without TCP keepalives a process waits hours for a server that vanished silently, such as one restarted during a
    # network failure.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # in ms
}

_SEVERAL_HOSTS = re.compile(r"(?P<start>[a-z+]+://(?:[^/?]*@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<rest>[/?].*)?", re.DOTALL)
#: -c NAME=VALUE, -cNAME=VALUE and --NAME=VALUE
_OPTION = re.compile(r"(?:-c\s*|--)(?P<name>[A-Za-z_][\w.-]*)=(?P<value>.*)", re.DOTALL)
_ONLY = "allowed are -c NAME=VALUE and --NAME=VALUE"


def split_hosts(url: str) -> str:
    """Return a URL with several hosts, as libpq writes them (`HOST:PORT,HOST:PORT`), in SQLAlchemy's form."""
    match = _SEVERAL_HOSTS.fullmatch(url)
    if match is None or not url.startswith("postgresql"):
        return url
    path, _, query = (match["rest"] or "").partition("?")
    hosts = "&".join(f"host={host}" for host in match["hosts"].split(","))
    return f"{match['start']}{path}?{hosts}{'&' if query else ''}{query}"


def make_postgresql_engine(url: URL) -> Engine:
    """Return an engine; it connects on first use.

    Raises:
        DatabaseUnavailable: a parameter of the URL is unknown, or has a wrong value.
    """
    _check_parameters(url)
    given = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    limits = _LIMITS | _read_options(_join(url.query.get("options", "")))
    plain = url.difference_update_query(["options", "prepare_threshold"]).set(drivername="postgresql+psycopg")
    arguments = {"prepare_threshold": _read_threshold(url), **given}
    try:
        engine = sqlalchemy.create_engine(
            plain,
            hide_parameters=True,  # they hold paths
            # Pre-ping, so that a pooled connection from before a server restart does not fail a job.
            pool_pre_ping=True,
            pool_size=POOL_SIZE,
            max_overflow=POOL_SIZE,  # a command with more threads than connections must not wait for itself
            connect_args=arguments,
        )
    except ArgumentError as error:  # of hosts and ports
        raise _refuse(f"has parameters that cannot be read: {error}") from None
    event.listen(engine, "begin", _Limits(limits))
    event.listen(engine, "handle_error", _give_up_read_only)
    return engine


def _check_parameters(url: URL) -> None:
    if not url.query:
        return
    from psycopg.pq import Conninfo  # loads libpq, which a URL without parameters does not need yet

    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"prepare_threshold"}
    for name in url.query:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "allowed are those of libpq, and prepare_threshold"
            raise _refuse(f"has the unknown parameter {name[:40]!r}; {hint}")
    timeout = _join(url.query.get("connect_timeout", "0"))
    if not timeout.isdecimal():  # psycopg's own error is one of a wrong statement
        raise _refuse(f"has connect_timeout={timeout[:40]!r}; allowed are whole seconds")


def _read_options(options: str) -> dict[str, str]:
    """Return the settings of a URL's `options`, which a pooler refuses to pass on at the start of a connection."""
    try:
        words = shlex.split(options)
    except ValueError:
        raise _refuse(f"has options with an open quote; {_ONLY}") from None
    found = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word += words.pop(0)
        match = _OPTION.fullmatch(word)
        if match is None:
            raise _refuse(f"has the option {word[:40]!r}; {_ONLY}")
        found[match["name"].replace("-", "_").lower()] = match["value"]
    return found


def _read_threshold(url: URL) -> int | None:
    """Return after how many executions a statement is prepared on the server; None for never.

    A prepared statement belongs to a session, and the next transaction behind a pooler has another one.
    """
    value = _join(url.query.get("prepare_threshold", "0")).lower()
    if value == "none":
        return None
    if not value.isdecimal():
        raise _refuse(f"has prepare_threshold={value[:40]!r}; allowed are 0 (never, the default) and whole numbers")
    return int(value) or None


def _join(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _refuse(fault: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"the database URL {fault} (NIGHTREAD_DATABASE_URL)")


class _Limits:
    """Sets the limits of a transaction at its start, in one statement."""

    def __init__(self, limits: dict[str, str]) -> None:
        self._names = ", ".join(limits)
        self._statement = "; ".join(f"SET LOCAL {name} = {_quote(value)}" for name, value in limits.items())

    def __call__(self, connection: Connection) -> None:
        try:
            connection.exec_driver_sql(self._statement)
        except DBAPIError as error:
            if (getattr(error.orig, "sqlstate", None) or "")[:2] not in {"22", "42"}:
                raise
            raise _refuse(f"sets {self._names}, and the server refuses one of them: {error.orig}") from None


def _quote(value: str) -> str:
    # A search_path of two schemas is a list of values. psycopg reads a single percent sign as a placeholder.
    parts = [part.strip().replace("'", "''").replace("%", "%%") for part in value.split(",")]
    return ", ".join(f"'{part}'" for part in parts)


def _give_up_read_only(context: ExceptionContext) -> None:
    """Treat a server that has become read-only as a lost connection: the next one may lead to its successor."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_SQLSTATE:
        context.is_disconnect = True


def find_remedy(error: DBAPIError) -> str:
    """Return what an operator can do about an error of the server, as the end of a sentence; "" for most."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate in LOST_STATEMENT_SQLSTATES:
        return "; behind a pooler in transaction mode leave prepare_threshold out of the URL"
    if sqlstate == NO_PERMISSION_SQLSTATE:
        return "; their owner grants what is missing: GRANT SELECT ON ALL TABLES to read, INSERT and UPDATE to score"
    if sqlstate == NO_SCHEMA_SQLSTATE:
        return "; make the schema of the search_path (CREATE SCHEMA), or correct search_path in the URL's options"
    if sqlstate in DAMAGED_SQLSTATES:
        return "; look at the server's disk, and restore the newest backup into another database"
    if "session is read-only" in str(error.orig):
        return "; it only reads: name the server that writes, or read with target_session_attrs=any in the URL"
    return ""


def parse_url(url: str) -> URL:
    """Return a database URL; several hosts are allowed.

    Raises:
        ArgumentError, ValueError: it cannot be read.
    """
    return make_url(split_hosts(url))
