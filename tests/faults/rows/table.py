"""The fault table: faults of a running night, and their expected outcomes."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.case import Case
from tests.faults.checker import Violation

Play = Callable[[Case], list[Violation]]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: number in the table; letters distinguish variants.
        fault: short description.
        injection: how the test injects it.
        outcome: expected outcome, besides the invariants.
        play: injects the fault, and returns the violations.
        own_workers: whether it needs other workers than other rows.
        is_long: whether it is left to a long night.
    """

    number: str
    fault: str
    injection: str
    outcome: str
    play: Play
    own_workers: bool
    is_long: bool

    def __str__(self) -> str:
        return f"{self.number}-{self.play.__name__.replace('_', '-')}"


ROWS: list[Row] = []


def row(
    number: str, fault: str, *, injection: str, outcome: str, own_workers: bool = False, is_long: bool = False
) -> Callable[[Play], Play]:
    """Add a function to the table."""

    def add(play: Play) -> Play:
        ROWS.append(Row(number, fault, injection, outcome, play, own_workers, is_long))
        return play

    return add
