"""A check's result."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How good a finding is."""

    OK = "ok"
    WARN = "warn"  # scoring works, but something may go wrong later
    FAIL = "fail"  # scoring does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        found: one sentence: what was found, and what to do about it.
        level: how good that is.
    """

    found: str
    level: Level = Level.OK


def warn_if(wrong: object, found: str, remedy: str) -> Finding:
    """Return a finding that is a warning with a remedy if `wrong` is true."""
    return Finding(f"{found}: {remedy}", Level.WARN) if wrong else Finding(found)
