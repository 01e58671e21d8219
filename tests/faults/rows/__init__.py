"""The rows of the fault table: those first that share their workers, since workers are what takes time to start."""

from tests.faults.rows import database, files, machines, queue, redis, workers
from tests.faults.rows.table import ROWS as _ROWS
from tests.faults.rows.table import Row

__all__ = ["ROWS", "Row"]

assert [database, files, machines, queue, redis, workers]  # each has added its own

ROWS = sorted(_ROWS, key=lambda row: row.own_workers)
