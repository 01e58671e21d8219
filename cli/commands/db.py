"""`db upgrade`, `partition`, `backup`, `restore` and `check`: the results database."""

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

import db.backup
from cli.database import open_database
from cli.exits import Exit
from cli.options import Json
from cli.output.console import print_json, say, waiting
from db import schema
from db.consistency import check_ledger
from db.engine import make_engine, reading
from db.partition_change import partition as partition_tables
from db.partition_change import plan_partitions
from db.partitions import MONTHS_AHEAD
from nightread.settings import read_settings


def _find_database() -> Engine:
    """Return the database of the settings, whatever its schema."""
    return make_engine(read_settings().database_url.get_secret_value())


def upgrade(as_json: Json = False) -> None:
    """Create the tables or upgrade them to this release's schema.

    Example: nightread db upgrade
    """
    before, now = schema.upgrade(_find_database())
    if as_json:
        print_json({"before": before, "now": now})
    else:
        say(f"schema {now}, nothing to do" if before == now else f"schema {before or '(none)'} -> {now}")


def partition(
    months_ahead: Annotated[
        int, typer.Option("--months-ahead", min=0, max=120, help="Partitions to make for months to come.")
    ] = MONTHS_AHEAD,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Divide the tables of a PostgreSQL server into partitions.

    Scans and rows of the worklist page lie in a partition for each month, which `prune` drops as a whole. Scores and
    measurements are copied into four partitions, and until then workers and commands wait: stop workers before the
    first time, and plan half a minute for each million scans. Repeat it to make the partitions of months to come. There
    is no way back but a backup.

    Example: nightread db partition --dry-run
    """
    engine = open_database()
    with waiting("partitioning"):
        done = plan_partitions(engine, months_ahead) if dry_run else partition_tables(engine, months_ahead)
    if as_json:
        print_json({"dry_run": dry_run, "tables": done.tables, "copied": done.copied, "months": done.months})
        return
    would = "would be " if dry_run else ""
    if done.tables:
        say(f"{', '.join(done.tables)}: {would}partitioned, {done.copied:,} rows {would}copied")
    say(f"new months: {would}{', '.join(done.months)}" if done.months else "no month is missing")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; must not exist.")],
    as_json: Json = False,
) -> None:
    """Write a backup of the database to a file, while workers go on.

    An SQLite database becomes an SQLite file, a PostgreSQL database a dump of `pg_dump`. Only you may read it.

    Example: nightread db backup /backups/2026-11-29.db
    """
    with waiting("writing the backup"):
        size = db.backup.back_up(_find_database(), file)
    if as_json:
        print_json({"file": str(file), "bytes": size})
    else:
        say(f"{file}: {size:,} bytes")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of `nightread db backup`.")],
    as_json: Json = False,
) -> None:
    """Fill an empty database from a backup.

    Scans that were queued when the backup was made are queued again, and workers score them.

    Example: nightread db restore /backups/2026-11-29.db
    """
    with waiting("restoring"):
        revision = db.backup.restore(_find_database(), file)
    is_older = revision < schema.REVISION
    if as_json:
        print_json({"file": str(file), "schema": revision, "upgrade_needed": is_older})
    else:
        say(f"restored, schema {revision}" + ("; run `nightread db upgrade` next" if is_older else ""))


def check(as_json: Json = False) -> None:
    """Check that the rows of the database agree with each other.

    The exit code is 1 if they do not.

    Reads every row and changes nothing. Workers may go on.

    Example: nightread db check
    """
    with waiting("checking"), reading(open_database()) as connection:
        rules = list(check_ledger(connection))
    if as_json:
        print_json([
            {"rule": one.rule, "text": one.text, "broken": one.broken, "fault": one.is_fault and one.broken > 0}
            for one in rules
        ])  # fmt: skip
    else:
        from cli.output.tables import make_table, out

        table = make_table("", "rows", "rule", right=("rows",))
        for one in rules:
            verdict = "ok" if not one.broken else ("FAULT" if one.is_fault else "note")
            table.add_row(verdict, f"{one.broken:,}" if one.broken else "", one.text)
        out.print(table)
    if any(one.is_fault and one.broken for one in rules):
        raise typer.Exit(Exit.ERROR)
