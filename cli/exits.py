"""Exit codes, which are frozen, and the exit code of each error."""

import errno
import os
from enum import IntEnum
from typing import Final

from nightread.errors import DatabaseUnavailable, NightreadError, StorageError, UnknownRun, WrongValue
from nightread.text import show_text
from worker.errors import BrokerUnavailable, GuardTripped, NothingToScore, WrongKey, WrongPaths


class Exit(IntEnum):
    """Exit codes of the program."""

    OK = 0  # every file has a terminal status and none is `failed`
    ERROR = 1  # a known error, reported in one line
    USAGE = 2  # the command line is wrong
    SOME_FAILED = 3  # some scans are `failed`
    GUARD = 4  # a guard tripped: the run does not look like a night
    UNAVAILABLE = 5  # a service does not answer: try again later
    EMPTY = 6  # there was no scan
    INTERRUPTED = 130


#: What each exit code means, and what to do about it; `docs/reference/exit-codes.md` has the same table.
MEANINGS: Final[dict[Exit, tuple[str, str]]] = {
    Exit.OK: (
        "every file has a terminal status, none is `failed`, and no guard tripped",
        "nothing",
    ),
    Exit.ERROR: (
        "an error, in one line with its remedy",
        "follow the line",
    ),
    Exit.USAGE: (
        "wrong usage: an unknown option, path or run, or a wrong value",
        "`--help`",
    ),
    Exit.SOME_FAILED: (
        "some scans are `failed`",
        "`nightread results --status failed`; fix the cause; `nightread retry`",
    ),
    Exit.GUARD: (
        "a guard tripped: the run does not look like a night",
        "`nightread status` says which and why",
    ),
    Exit.UNAVAILABLE: (
        "a service is unavailable, or the database cannot be used",
        "follow the line; try again later, with the same `--key`; an enqueued run is safe in the database",
    ),
    Exit.EMPTY: (
        "there was no scan",
        "is the share mounted? `--allow-empty` if that is in order",
    ),
    Exit.INTERRUPTED: (
        "interrupted by Ctrl-C, SIGTERM or SIGHUP; finished work is kept",
        "repeat the command to resume",
    ),
}


#: What a file system refuses whatever a command does with the path.
_OF_THE_SYSTEM: Final = {
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip
#: Characters of such a path: one may be too long.
_SHOWN: Final = 300


def explain(error: BaseException) -> tuple[str, Exit] | None:
    """Return (message, exit code) of a known error, else None."""
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        path = "a file" if error.filename is None else os.fsdecode(error.filename)[:_SHOWN]  # None: of an open file
        code = Exit.USAGE if error.errno in {errno.ENAMETOOLONG, errno.ENOTDIR} else Exit.ERROR
        return f"{show_text(path)} cannot be used: {error.strerror}", code
    if not isinstance(error, NightreadError):
        return None
    message = show_text(" ".join(str(error).split()))
    if isinstance(error, DatabaseUnavailable | BrokerUnavailable | StorageError):
        return message, Exit.UNAVAILABLE
    if isinstance(error, NothingToScore):
        return message, Exit.EMPTY
    if isinstance(error, GuardTripped):
        return message, Exit.GUARD
    if isinstance(error, WrongPaths | UnknownRun | WrongKey | WrongValue):
        return message, Exit.USAGE
    return message, Exit.ERROR
