"""Result rows as a table for people: highest scores first, with totals."""

import os
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from cli.output.console import say, show_time
from db.results import OPERATING_POINT, Order, ResultFilter, count_results, stream_results
from db.tallies import RunTally
from db.worklist import read_page

_MOST_ROWS: Final = 100
#: Titles of columns that are called otherwise in SQL.
_TITLES: Final = {"path": "scan"}
_COLUMNS: Final = ("path", "label", "score", "decision", "status", "reason", "time")
_SPARE: Final = (
    "reason", "status", "run", "label", "time", "model", "study", "reason_text", "sha256", "provider", "worker",
)  # fmt: skip


def print_rows(connection: Connection, wanted: ResultFilter, tally: RunTally | None) -> None:
    """Print the rows of `wanted` and how many there are.

    Args:
        connection: for reading.
        wanted: the rows.
        tally: counts of the run, where it is one run without further restrictions in time or study.
    """
    limit = wanted.limit or _MOST_ROWS
    columns = list(wanted.columns or (_COLUMNS if wanted.run_id else (*_COLUMNS, "run")))
    if wanted.decided_at is not None and OPERATING_POINT in columns:
        columns.remove(OPERATING_POINT)
    rows = _read_rows(connection, replace(wanted, limit=limit, columns=(*columns, "decision")), tally)
    if not rows:
        known = ", ".join(tally.decisions) if tally is not None and wanted.decision is not None else ""
        if tally is not None and not tally.counts.found:
            say("no rows: this run holds no scans; `nightread runs` lists the others")
        else:
            say(f"no rows; the decisions of this run are {known}" if known else "no rows")
        return
    from cli.output.tables import make_table, out, paint  # Rich, which the other formats do not need

    titles = [_TITLES.get(column, column) for column in columns]
    table = make_table(*titles, right=("score",), spare=tuple(title for title in _SPARE if title in titles))
    for row in rows:
        cells: list[Any] = [_show(row, column) for column in columns]
        for column, of in (("decision", row["decision"]), ("status", row["status"])):
            if column in columns:
                is_finding = column == "decision" and of is not None and of == row["label"]
                cells[columns.index(column)] = paint(of or "", is_finding=is_finding)
        table.add_row(*cells)
    counts = _count(connection, wanted, tally, rows, limit)
    footer = _make_footer(wanted, rows, counts, has_times="time" in columns)
    with _make_pager(out, len(rows)):
        out.print(table)
        for line in footer if out.is_terminal else ():
            out.print(line, style="dim")
    if not out.is_terminal:
        say("\n".join(footer))


def _read_rows(connection: Connection, wanted: ResultFilter, tally: RunTally | None) -> list[dict[str, Any]]:
    """Return the rows; those of one run by score come from its worklist, so that it need not be sorted."""
    if tally is not None and wanted.order is Order.SCORE:
        return read_page(connection, wanted, wanted.limit or _MOST_ROWS, None, tally).rows
    return list(stream_results(connection, wanted))


def _show(row: dict[str, Any], column: str) -> str:
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, datetime):
        return show_time(value) if value.tzinfo else f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _count(
    connection: Connection, wanted: ResultFilter, tally: RunTally | None, rows: list[dict[str, Any]], limit: int
) -> dict[str, int]:
    """Count all rows of `wanted` by decision, or by status where there is none."""
    is_whole = wanted == ResultFilter(wanted.run_id, order=wanted.order, limit=wanted.limit, columns=wanted.columns)
    if tally is not None and is_whole:
        counts = tally.counts
        others = {"rejected": counts.rejected, "failed": counts.failed, "queued": counts.queued}
        return tally.decisions | {name: count for name, count in others.items() if count}
    by_decision: dict[str, int] = {}
    if len(rows) < limit:
        keys = (row["decision"] or row["status"] for row in rows)
        for key in keys:
            by_decision[key] = by_decision.get(key, 0) + 1
        return by_decision
    for (decision, status), count in count_results(connection, wanted).items():
        key = decision or status
        by_decision[key] = by_decision.get(key, 0) + count
    return by_decision


def _make_footer(
    wanted: ResultFilter, rows: list[dict[str, Any]], counts: dict[str, int], *, has_times: bool
) -> list[str]:
    total = sum(counts.values())
    told = f"{total:,} row{'s' * (total != 1)}" if len(rows) >= total else f"{len(rows):,} of {total:,} rows"
    parts = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    lines = [f"{told}: {parts}"]
    if wanted.decided_at is not None:
        thresholds = ", ".join(f"{label} >= {score:.4g}" for label, score in wanted.decided_at.thresholds.items())
        lines.append(f"Decisions recomputed at {wanted.decided_at.name} ({thresholds}); stored decisions unchanged.")
    if len(rows) < total:
        lines.append("More: --limit N; all: --format csv")
    if has_times:
        shown = next((row["time"].astimezone() for row in rows if row["time"]), None)
        lines += [f"Times are local: {shown.tzname()}, UTC{shown.isoformat()[-6:]}."] if shown else []
    return lines


def _make_pager(out: Any, rows: int) -> Any:
    """Return a pager where the table is longer than the terminal."""
    if not out.is_terminal or rows + 4 <= out.size.height:
        return nullcontext()
    os.environ.setdefault("LESS", "-FRX")  # as git does: colors, and no page for what fits
    return out.pager(styles=True)
