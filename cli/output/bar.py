"""Progress without Rich: nothing, or now and then a line."""

import time
from collections.abc import Callable
from typing import Final

from nightread.text import show_duration, show_size

#: A line each minute, or after a tenth of the work; a short command prints none.
_LONGEST_S: Final = 60.0
_SHORTEST_S: Final = 10.0
_SHARE: Final = 0.1


def show_count(count: float, unit: str) -> str:
    """Return a count for people; bytes as a size."""
    return show_size(count) if unit == "bytes" else f"{count:,.0f}"


def show_rate(rate: float, unit: str) -> str:
    """Return a rate for people, such as "12 scans/s"."""
    return f"{show_size(rate)}/s" if unit == "bytes" else f"{rate:,.{0 if rate >= 10 else 1}f} {unit}/s"


class Bar:
    """A progress bar that shows nothing."""

    def set(self, completed: int, total: int, description: str | None = None) -> None:
        """Show `completed` of `total`; 0: of a number that is not known."""


class LineBar(Bar):
    """Progress as lines, for a log or a pipe."""

    def __init__(
        self,
        description: str,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        *,
        unit: str = "scans",
    ) -> None:
        """Write nothing yet.

        Args:
            description: what goes on.
            write: takes a line.
            clock: time in seconds.
            unit: what is counted.
        """
        self._unit = unit
        self._description = description
        self._write = write
        self._clock = clock
        self._began = self._said_at = clock()
        self._first: int | None = None
        self._said = 0

    def set(self, completed: int, total: int, description: str | None = None) -> None:
        """Write a line if a minute has passed, or a tenth of the work is done since the last one."""
        self._description = description or self._description
        now = self._clock()
        if self._first is None:
            self._first = self._said = completed
        since_s = now - self._said_at
        has_moved = total > 0 and completed - self._said >= _SHARE * total
        if since_s < _SHORTEST_S or not (has_moved or since_s >= _LONGEST_S):
            return
        self._said_at, self._said = now, completed
        rate = (completed - self._first) / (now - self._began)
        of_total = f" of {show_count(total, self._unit)}" if total else ""
        parts = [f"{self._description}: {show_count(completed, self._unit)}{of_total}"]
        if total:
            parts.append(f"{completed / total:.0%}")
        if rate:
            parts.append(show_rate(rate, self._unit))
        if rate and total:
            parts.append(f"{show_duration((total - completed) / rate)} left")
        self._write(", ".join(parts) + "\n")
