"""How many scans a thread of a CPU scores at once: found out by scoring them.

It depends on the network and on the processor's caches: of a few scans, what the layers hand on to each other stays
there; of more, the weights are read less often. One size for all cost a fifth of a small network's inference
(docs/performance.md).
"""

import statistics
import threading
from collections.abc import Sequence
from typing import Final

#: The most scans that a thread is handed, and scores, at once.
LARGEST_PART: Final = 8
#: What is tried.
SIZES: Final = (1, 2, 4, LARGEST_PART)
#: Scans that each size is tried on, one size after the other, and the fewest runs of a size. The median of its runs
#: counts: the first one reserves memory, others are disturbed.
_TRIED_SCANS: Final = 24
_FEWEST_RUNS: Final = 5


class BatchTuner:
    """Tries each size on the scans that come, and keeps to the one that took the least time for a scan."""

    def __init__(self, sizes: Sequence[int] = SIZES) -> None:
        """Know nothing yet.

        Args:
            sizes: what is tried.
        """
        self._times: dict[int, list[float]] = {size: [] for size in sizes}
        self._best: int | None = None
        self._lock = threading.Lock()

    @property
    def best(self) -> int | None:
        """The size that was fastest; None while that is still being found out."""
        return self._best

    def choose(self, most: int) -> int:
        """Return how many of `most` scans, at least one, are to be scored next; several threads may ask."""
        if self._best is not None:
            return min(self._best, most)
        with self._lock:
            untried = [size for size, times in self._times.items() if size <= most and not _is_tried(size, times)]
        return min(untried, default=most)

    def note(self, size: int, seconds: float) -> None:
        """Note how long scoring so many scans took a thread, by its own clock."""
        with self._lock:
            times = self._times.get(size)
            if times is None or self._best is not None:
                return
            times.append(seconds)
            if all(_is_tried(each, taken) for each, taken in self._times.items()):
                self._best = min(self._times, key=lambda each: statistics.median(self._times[each]) / each)


def _is_tried(size: int, times: Sequence[float]) -> bool:
    return len(times) >= max(_FEWEST_RUNS, _TRIED_SCANS // size)
