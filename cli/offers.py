"""What the shell may complete, each with a description: runs and schedules of the database, models of this machine."""

from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from db.engine import make_engine, reading
from db.runs import list_runs
from db.schedules import list_schedules
from nightread.model.bundle import list_bundles
from nightread.settings import read_settings

_MOST_RUNS: Final = 50


def offer_runs() -> list[tuple[str, str]]:
    """Return names and ids of the newest runs."""
    with reading(_open_existing()) as connection:
        runs = list_runs(connection, _MOST_RUNS)
    names = {run.name: f"{run.status.value}, {run.found:,} scans" for run in reversed(runs)}
    return [*reversed(names.items()), *((run.id[:8], run.name) for run in runs)]


def offer_models() -> list[tuple[str, str]]:
    """Return the bundles of this machine."""
    folders = list_bundles(read_settings().models_dir)
    return sorted({(f"{folder.parent.name}@{folder.name}", "") for folder in folders})


def offer_schedules() -> list[tuple[str, str]]:
    """Return the schedules, each with its time."""
    with reading(_open_existing()) as connection:
        schedules = list_schedules(connection)
    return [
        (each.name, f"at {each.at_time} {each.timezone}" if each.at_time else f"every {each.every_s} s")
        for each in schedules
    ]


def _open_existing() -> Engine:
    """Return the database of the settings as it is: no file is made, no schema upgraded."""
    engine = make_engine(read_settings().database_url.get_secret_value())
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        raise FileNotFoundError(engine.url.database)
    return engine
