"""Whose turn it is: the order in which a worker looks into the queues of the classes of runs.

Strict priority would starve the lower classes for as long as a higher one has messages. So of three turns two go to the
highest class that has messages, and one to the classes below it, among which it is divided in the same way.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from kombu.utils.scheduling import round_robin_cycle

from db.types import Priority

#: The queue of each class, highest first. Releases up to schema 0005 know the one of `normal` alone.
QUEUES: Final = {Priority.URGENT: "nightread.urgent", Priority.NORMAL: "nightread", Priority.BULK: "nightread.bulk"}
_ORDER: Final = tuple(QUEUES.values())
_TURNS: Final = 3


class Turns(round_robin_cycle):
    """Order of the queues in the next request for a message, which Redis answers from the first that has one."""

    def __init__(self, queues: Iterable[str] = ()) -> None:
        super().__init__(list(queues))  # type: ignore[no-untyped-call]
        #: For each queue: messages that were taken from it or one below.
        self._taken: Counter[str] = Counter()

    def update(self, queues: Iterable[str]) -> None:
        """Take the queues that this worker reads now."""
        self.items[:] = sorted(queues, key=lambda queue: _ORDER.index(queue) if queue in _ORDER else len(_ORDER))

    def consume(self, n: int) -> Sequence[str]:
        """Return the queues in the order of this turn."""
        order: list[str] = []
        for queue in reversed(self.items[:n]):
            is_below_first = self._taken[queue] % _TURNS == _TURNS - 1
            order = [*order, queue] if is_below_first else [queue, *order]
        return order

    def rotate(self, last_used: str) -> str:
        """Pass to the next turn, since a message was taken."""
        if last_used in self.items:
            self._taken.update(self.items[: self.items.index(last_used) + 1])
        return last_used
