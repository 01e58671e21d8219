"""The log: text lines or one JSON object per line, on stderr, since stdout is for data."""

import logging
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from nightread.errors import NightreadError
from nightread.failpoints import describe_armed
from nightread.settings import LogFormat, Settings

_TEXT = "%(asctime)s %(levelname)-7s %(name)s%(place)s: %(message)s"
_FIELDS = "%(levelname)s %(name)s %(process)d %(message)s"


#: What this thread works on: `run` and `job`, by id.
_context: ContextVar[Mapping[str, str]] = ContextVar("nightread_log_context", default=MappingProxyType({}))


@contextmanager
def log_context(**ids: str) -> Iterator[None]:
    """Add ids to the log lines of this thread, and of the threads that get its context.

    Args:
        ids: `run` or `job`; those of an outer context stay.
    """
    token = _context.set({**_context.get(), **ids})
    try:
        yield
    finally:
        _context.reset(token)


def _add_context(record: logging.LogRecord) -> bool:
    """Add the ids to a record: as fields in JSON, shortened in text."""
    ids = _context.get()
    vars(record).update(ids)
    record.place = "".join(f" {name} {value[:8]}" for name, value in ids.items())
    return True


def _hide_texts(record: logging.LogRecord) -> bool:
    """Replace the error of a record by what may be shown of it."""
    if record.exc_info:
        record.exc_text, record.exc_info = _show_error(record.exc_info[1]), None
    return True


def _show_error(error: BaseException | None) -> str:
    """Return the traceback of an error and its causes, without their texts, which may hold a path or a patient.

    The texts of Nightread's own errors hold neither.
    """
    shown: list[str] = []
    while error is not None:
        said = f": {error}" if isinstance(error, NightreadError) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        shown.append(f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}{said}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nfollowed by:\n\n".join(reversed(shown))


def configure_logging(settings: Settings, *, default: str | None = None) -> None:
    """Send all log lines of this process to stderr, with times in UTC.

    Args:
        settings: format and level.
        default: level if the settings name none; default: theirs.
    """
    level = default if default and "log_level" not in settings.model_fields_set else settings.log_level
    formatter: logging.Formatter
    if settings.log_format is LogFormat.JSON:
        formatter = JsonFormatter(
            _FIELDS,
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, "place"],
        )
    else:
        formatter = logging.Formatter(_TEXT)
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_add_context)
    handler.addFilter(_hide_texts)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)  # a library's warning is a line of the log, too
    # Celery logs each received message and each finished task: two lines per job with nothing but ids.
    for name in ("celery.worker.strategy", "celery.app.trace", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if armed := describe_armed():
        logging.getLogger(__name__).warning("this process fails on purpose: %s", armed)
