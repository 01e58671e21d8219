"""The fault table: what is done to a running night, and what must come of it."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.case import Case
from tests.faults.checker import Violation

Play = Callable[[Case], list[Violation]]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: in the table of the design; letters tell variants apart.
        fault: in a few words.
        injection: how it is made here.
        outcome: what must come of it, beside the invariants.
        play: makes it, and returns what was wrong in the end.
        own_workers: whether its workers differ from those of other rows, and have to be started for it.
    """

    number: str
    fault: str
    injection: str
    outcome: str
    play: Play
    own_workers: bool

    def __str__(self) -> str:
        return f"{self.number}-{self.play.__name__.replace('_', '-')}"


ROWS: list[Row] = []


def row(number: str, fault: str, *, injection: str, outcome: str, own_workers: bool = False) -> Callable[[Play], Play]:
    """Put a function into the table."""

    def add(play: Play) -> Play:
        ROWS.append(Row(number, fault, injection, outcome, play, own_workers))
        return play

    return add
