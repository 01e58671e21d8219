"""What `worker`, `beat` and `sweep` share: settings for child processes, and the health check."""

import os
from collections.abc import Callable
from typing import NoReturn

import typer
from sqlalchemy import Engine

from cli.exits import Exit
from cli.output.console import print_json, say
from db.engine import make_engine
from db.schema import check_schema
from nightread.logs import configure_logging
from nightread.settings import Settings, check_shared_broker, read_settings
from worker.health import Health


def prepare_cluster_process(command: str, **overrides: str | None) -> Settings:
    """Read the settings, configure logging, and pass options on to child processes through the environment.

    Raises:
        SettingsError: a setting is wrong, or the broker lives in one process.
    """
    for name, value in overrides.items():
        if value is not None:
            os.environ[f"NIGHTREAD_{name.upper()}"] = value
    settings = read_settings()
    check_shared_broker(settings, command)
    configure_logging(settings)
    return settings


def report_health(settings: Settings, check: Callable[[Engine, Settings], Health], as_json: bool) -> NoReturn:
    """Print what a health check finds and exit with 0 or 1."""
    engine = make_engine(settings.database_url.get_secret_value())
    check_schema(engine)
    found = check(engine, settings)
    if as_json:
        print_json(found.describe())
    else:
        moving = [f"worker {worker.pid}: {worker.last} {worker.still_s:.0f} s ago" for worker in found.workers]
        say("; ".join(found.faults or [*moving, f"{found.due_jobs:,} jobs wait"]))
    raise typer.Exit(Exit.ERROR if found.faults else Exit.OK)
