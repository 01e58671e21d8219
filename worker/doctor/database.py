"""Checks of the database: connection, rights and clock."""

from datetime import UTC, datetime
from typing import Final

from db.engine import make_engine, read_clock, reading, show_address
from db.partitions import find_missing_months, is_partitioned, name_partition
from db.schema import check_rights, read_revision
from db.server import describe_server, read_server
from worker.doctor.finding import Finding, warn_if
from worker.doctor.machine import Machine

#: Leases go by the database's clock; logs go by this machine's, and are read side by side.
_LARGEST_OFFSET_S: Final = 5.0


def check_database(machine: Machine) -> Finding:
    """Connect, and check the schema and the partitions of this month and the next."""
    said = f"{show_address(machine.engine)}, schema {read_revision(machine.engine)}"
    with reading(machine.engine) as connection:
        if not is_partitioned(connection):
            return Finding(said)
        missing = find_missing_months(connection, 1, read_clock(connection))
    names = ", ".join(name_partition("scans", month) for month in missing)
    return warn_if(
        missing, f"{said}, in partitions{' without ' * bool(missing)}{names}",
        "scans of that month lie in the one before; run `nightread db partition` as the owner of the tables",
    )  # fmt: skip


def check_server(machine: Machine) -> Finding:
    """Ask a PostgreSQL server for its version, encoding, connections and role."""
    engine = make_engine(machine.settings.database_url.get_secret_value())
    if engine.dialect.name == "sqlite":
        return Finding("none: one file, for the processes of this host")
    return Finding(describe_server(read_server(engine)))


def check_database_rights(machine: Machine) -> Finding:
    """Insert into and update every table, without rows."""
    check_rights(machine.engine)
    return Finding("every table can be written")


def check_clock(machine: Machine) -> Finding:
    """Compare this machine's clock with the database's."""
    with reading(machine.engine) as connection:
        before = datetime.now(UTC)
        theirs = read_clock(connection)
        after = datetime.now(UTC)
    offset_s = (theirs - (before + (after - before) / 2)).total_seconds()
    said = f"{offset_s:+.3f} s from this machine's"
    return warn_if(
        abs(offset_s) > _LARGEST_OFFSET_S + (after - before).total_seconds(), said,
        "times of logs and results do not agree; synchronise both clocks (NTP)",
    )  # fmt: skip
