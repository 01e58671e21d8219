"""Exit codes, which are frozen, and which error ends in which."""

from enum import IntEnum

from nightread.errors import DatabaseUnavailable, NightreadError, UnknownRun
from worker.errors import BrokerUnavailable, WrongPaths


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0  # every file has a terminal status and none is `failed`
    ERROR = 1  # an error that is understood, told in one line
    USAGE = 2  # the command line is wrong
    SOME_FAILED = 3  # some scans are `failed`
    UNAVAILABLE = 5  # a service is away: try again later
    INTERRUPTED = 130


def explain(error: BaseException) -> tuple[str, Exit] | None:
    """Return (one line, exit code) for an error that is understood, else None."""
    if not isinstance(error, NightreadError):
        return None
    message = " ".join(str(error).split())
    if isinstance(error, DatabaseUnavailable | BrokerUnavailable):
        return message, Exit.UNAVAILABLE
    if isinstance(error, WrongPaths | UnknownRun):
        return message, Exit.USAGE
    return message, Exit.ERROR
