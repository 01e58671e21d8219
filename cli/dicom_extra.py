"""Imports of the extra `dicom`, when they are needed: for a PACS, and for `report --sr`."""

from importlib import import_module
from typing import Any

from nightread.errors import NightreadError


def import_dicom(module: str) -> Any:
    """Return a module of `pacs`.

    Raises:
        NightreadError: the extra is not installed; the message names the remedy.
    """
    try:
        return import_module(f"pacs.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"pacs", "nightread", "worker", "db"}:
            raise
        raise NightreadError(
            f"this needs {error.name}, which the extra `dicom` brings: uv sync --extra dicom, or "
            "pip install 'nightread[dicom]'"
        ) from None


def fetch_night(*args: Any, **options: Any) -> str:
    """Fetch a night of a schedule; a `worker.runs.schedules.NightFetcher`."""
    run_id: str = import_dicom("nights").fetch_scheduled(*args, **options)
    return run_id
