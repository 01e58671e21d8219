"""Changes: the scans that became terminal since a program last asked, each exactly once.

A cursor must not be a time alone: a worker notes the time at which a job ends and commits a moment later, so a row may
become visible after a later one. On PostgreSQL the cursor therefore holds the snapshot of the last reading, and a row
is new if the transaction that wrote it had not committed then. SQLite has one writer at a time: while a reader holds
the write lock, everything that was noted before is committed.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, TextClause, func, text, tuple_

from db.dialects import allow_slow_reader
from db.engine import read_clock, reading, write
from db.results import ResultFilter, find_view, select_results
from db.tables import scans
from nightread.errors import WrongValue

#: Cursors of a program that has read nothing yet: everything, or nothing that is there already.
START: Final = "start"
NOW: Final = "now"
#: No transaction that ends scans lasts as long: statements and idle transactions have limits of two minutes.
_LONGEST_TRANSACTION: Final = timedelta(minutes=15)
_ROWS_PER_FETCH: Final = 2_000
_SNAPSHOT: Final = re.compile(r"[0-9]{1,19}:[0-9]{1,19}:[0-9,]{0,1500}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What was visible at one reading: up to a time, or on PostgreSQL in a snapshot."""

    time: str
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Position of a reader between two moments.

    Attributes:
        since: all that was visible then has been read; None: nothing has.
        until: with `after`: the rows up to this moment are being read.
        after: the last row that was read: time, scan id and label.
    """

    since: _Moment | None = None
    until: _Moment | None = None
    after: tuple[str, int, str] | None = None

    def __str__(self) -> str:
        """Return the cursor as one word for a program to keep."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self), separators=(",", ":")).encode()).decode()


def read_cursor(word: str) -> Cursor | None:
    """Return the cursor that a program kept; None for `NOW`.

    Raises:
        WrongValue: it is none.
    """
    if word == START:
        return Cursor()
    if word == NOW:
        return None
    try:
        held = json.loads(base64.urlsafe_b64decode(word))
        since, until = (None if held[name] is None else _Moment(**held[name]) for name in ("since", "until"))
        for moment in (since, until):
            if moment is not None:
                _check_moment(moment)
        after = None if held["after"] is None else (str(held["after"][0]), int(held["after"][1]), str(held["after"][2]))
        if after is not None:
            _check_place(*after)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise WrongValue(
            f"{word[:40]!r} is no cursor: give the one that the last reading ended with, or `{START}` for "
            f"everything, or `{NOW}` for what changes from now on"
        ) from None
    return Cursor(since, until, after)


def _check_place(time: str, scan_id: int, label: str) -> None:
    """Check the last row of a page, as `_check_moment` does."""
    _check_moment(_Moment(time))
    if "\0" in label or not 0 <= scan_id < 2**63:
        raise ValueError


def _check_moment(moment: _Moment) -> None:
    """Check what a stranger may have written: the database would fail on it.

    Raises:
        ValueError: it is no moment.
    """
    has_zone = datetime.fromisoformat(moment.time).tzinfo is not None
    if not has_zone or not (moment.snapshot is None or _SNAPSHOT.fullmatch(moment.snapshot)):
        raise ValueError


class Changes:
    """Rows that became terminal since a cursor; iterate over it once, then take `cursor`.

    A scan that changed twice since then, such as one that failed and was scored by a retry, comes once, as it is now.
    """

    def __init__(self, engine: Engine, wanted: ResultFilter, word: str) -> None:
        """Prepare the reading.

        Args:
            engine: the database.
            wanted: which rows, of which a limit is the most that are read at a time.
            word: the cursor of the last reading.

        Raises:
            WrongValue: the word is no cursor.
        """
        self._engine = engine
        self._wanted = wanted
        self._begin = read_cursor(word)
        self.cursor = word

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, ordered by the time at which they became terminal."""
        before = _wait_for_writers(self._engine)
        with reading(self._engine) as connection:
            now = _look(connection, before)
            if self._begin is None:
                self.cursor = str(Cursor(now))
                return
            cursor, left = self._begin, self._wanted.limit
            if cursor.until is not None:
                for row in self._read(connection, cursor, left):
                    left = None if left is None else left - 1
                    yield row
                if left == 0:
                    return
                cursor = Cursor(cursor.until)
            yield from self._read(connection, replace(cursor, until=now), left)

    def _read(self, connection: Connection, cursor: Cursor, limit: int | None) -> Iterator[dict[str, Any]]:
        """Yield the rows between the two moments of a cursor; leaves the next cursor in `self.cursor`."""
        allow_slow_reader(connection)
        rows = connection.execute(_select(connection, replace(self._wanted, limit=limit), cursor))
        read = 0
        for row in rows.mappings():
            read += 1
            last = (row["time"].isoformat(), row["scan_id"], row["label"] or "")
            if read == limit:
                self.cursor = str(replace(cursor, after=last))
            yield {**row, "status": row["status"].value}
        if limit is None or read < limit:
            self.cursor = str(Cursor(cursor.until))


def _wait_for_writers(engine: Engine) -> datetime | None:
    """Return a time before which SQLite's rows are all committed; None on PostgreSQL."""
    return write(engine, read_clock) if engine.dialect.name == "sqlite" else None


def _look(connection: Connection, before: datetime | None) -> _Moment:
    if before is not None:
        return _Moment(before.isoformat())
    snapshot = connection.execute(text("SELECT pg_current_snapshot()::text")).scalar_one()
    return _Moment(read_clock(connection).isoformat(), snapshot)


def _select(connection: Connection, wanted: ResultFilter, cursor: Cursor) -> Select[Any]:
    columns = (*wanted.columns, "time") if wanted.columns else ()
    view = find_view(wanted)
    query = select_results(replace(wanted, columns=columns)).where(view.c.time.is_not(None)).order_by(None)
    place = (view.c.time, view.c.scan_id, func.coalesce(view.c.label, ""))
    query = query.order_by(*place)
    if connection.dialect.name == "postgresql":
        query = query.join(scans, scans.c.id == view.c.scan_id)
        if cursor.since is not None:
            earliest = datetime.fromisoformat(cursor.since.time) - _LONGEST_TRANSACTION
            query = query.where(scans.c.finished_at >= earliest, _was_visible(cursor.since, "seen", negated=True))
        if cursor.until is not None:
            query = query.where(_was_visible(cursor.until, "held"))
    else:
        if cursor.since is not None:
            query = query.where(view.c.time >= datetime.fromisoformat(cursor.since.time))
        if cursor.until is not None:
            query = query.where(view.c.time < datetime.fromisoformat(cursor.until.time))
    if cursor.after is not None:
        time, scan_id, label = cursor.after
        after = (datetime.fromisoformat(time), scan_id, label)
        query = query.where(view.c.time >= after[0], tuple_(*place) > tuple_(*after, types=[c.type for c in place]))
    return query.execution_options(yield_per=_ROWS_PER_FETCH)


#: A row names its transaction by the last 32 of 64 bits; the rows that are looked at are younger than a round of them.
_TOP: Final = "pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_WHOLE: Final = f"({_TOP} - {_TOP} % 4294967296 + scans.xmin::text::bigint)"
_XID: Final = f"({_WHOLE} - CASE WHEN {_WHOLE} > {_TOP} THEN 4294967296 ELSE 0 END)::text::xid8"


def _was_visible(moment: _Moment, name: str, *, negated: bool = False) -> TextClause:
    """Match scans whose row was written by a transaction that had committed at a moment, or by another one."""
    condition = f"{'NOT ' if negated else ''}pg_visible_in_snapshot({_XID}, CAST(:{name} AS pg_snapshot))"
    return text(condition).bindparams(**{name: moment.snapshot})
