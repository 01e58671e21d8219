"""The rows of the fault table; those that share workers come first, since workers are slow to start."""

from tests.faults.rows import database, files, hosts, machines, queue, redis, workers
from tests.faults.rows.table import ROWS as _ROWS
from tests.faults.rows.table import Row

__all__ = ["ROWS", "Row"]

assert [database, files, hosts, machines, queue, redis, workers]  # importing each module adds its rows

ROWS = sorted(_ROWS, key=lambda row: row.own_workers)
