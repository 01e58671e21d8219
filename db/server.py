"""The PostgreSQL server behind an engine: version, encoding, connections, and whether it can be written."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, text

from db.engine import reading
from db.postgresql import POOL_SIZE
from nightread.errors import SettingsError

#: Oldest release that Nightread is tested with.
_OLDEST: Final = 15
_ENCODING: Final = "UTF8"


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself.

    Attributes:
        version: such as 17.2.
        encoding: of the database.
        is_read_only: whether it refuses to write, as a standby does.
        can_write: whether the role may write the table `scans`; True without tables.
        connections: connections open now, of all clients.
        most_connections: connections that this role may open together with all others.
    """

    version: str
    encoding: str
    is_read_only: bool
    can_write: bool
    connections: int
    most_connections: int


def check_encoding(connection: Connection) -> None:
    """Check that a PostgreSQL database can store every path.

    Raises:
        SettingsError: its encoding is another one than UTF8.
    """
    if connection.dialect.name != "postgresql":
        return
    encoding = str(connection.execute(text("SHOW server_encoding")).scalar_one())
    if encoding != _ENCODING:
        raise SettingsError(
            f"the database has the encoding {encoding}; only {_ENCODING} stores every path. Create it with "
            f"CREATE DATABASE nightread ENCODING '{_ENCODING}' TEMPLATE template0 (NIGHTREAD_DATABASE_URL)"
        )


def read_server(engine: Engine) -> Server:
    """Return what a PostgreSQL server says of itself.

    Raises:
        DatabaseUnavailable: it does not answer.
    """
    with reading(engine) as connection:
        return Server(*connection.execute(text(_QUERY)).one())


def describe_server(server: Server) -> str:
    """Return a server in one line: version, encoding, and how many processes still fit.

    Raises:
        SettingsError: runs would fail on it; the message says what to change.
    """
    if server.encoding != _ENCODING:
        raise SettingsError(f"the database has the encoding {server.encoding}; only {_ENCODING} stores every path")
    if server.is_read_only:
        raise SettingsError("the server only reads, as a standby does: name the one that writes")
    if not server.can_write:
        raise SettingsError(
            "the role may not write: `results` and `status` work; `enqueue` and `worker` need "
            "GRANT INSERT, UPDATE ON ALL TABLES"
        )
    free = server.most_connections - server.connections
    if free < POOL_SIZE:
        raise SettingsError(
            f"{server.connections} of {server.most_connections} connections are open, and a process opens up to "
            f"{POOL_SIZE}: raise max_connections, or put PgBouncer in front"
        )
    old = "" if int(server.version.partition(".")[0]) >= _OLDEST else f"; the oldest tested release is {_OLDEST}"
    return (
        f"PostgreSQL {server.version}, {server.encoding}, {server.connections} of {server.most_connections} "
        f"connections open: {free // POOL_SIZE} more processes fit{old}"
    )


# A role without the right to see others' sessions still counts them.
_QUERY = """
SELECT split_part(current_setting('server_version'), ' ', 1), current_setting('server_encoding'),
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean,
    coalesce(
        has_table_privilege(to_regclass('scans'), 'INSERT') AND has_table_privilege(to_regclass('scans'), 'UPDATE'),
        true
    ),
    (SELECT count(*)::integer FROM pg_stat_activity WHERE backend_type = 'client backend'),
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
"""
