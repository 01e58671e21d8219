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
#: So many sizes that are slower than a smaller one are enough to look no further.
_SLOWER_SIZES: Final = 2


class BatchTuner:
    """Tries one size after the other on the scans that come, and keeps to the one that took the least time for a scan.

    Where two larger ones were slower than a smaller one, larger ones still are not tried: their memory costs time, too.
    """

    def __init__(self, sizes: Sequence[int] = SIZES) -> None:
        """Know nothing yet.

        Args:
            sizes: what is tried, in ascending order.
        """
        self._untried = list(sizes)
        self._times: list[float] = []  # of the size that is being tried, for all of its scans
        self._taken: dict[int, float] = {}  # for one scan, by size
        self._best: int | None = None
        self._lock = threading.Lock()

    @property
    def best(self) -> int | None:
        """The size that was fastest; None while that is still being found out."""
        return self._best

    def choose(self, most: int) -> int:
        """Return how many of `most` scans, at least one, are to be scored next; several threads may ask."""
        with self._lock:
            if self._best is None and self._untried[0] <= most:
                return self._untried[0]
            return min(self._best or self._find_best() or most, most)

    def note(self, size: int, seconds: float) -> None:
        """Note how long scoring so many scans took a thread, by its own clock."""
        with self._lock:
            if self._best is not None or size != self._untried[0]:
                return
            self._times.append(seconds)
            if len(self._times) < max(_FEWEST_RUNS, _TRIED_SCANS // size):
                return
            self._taken[size] = statistics.median(self._times) / size
            self._times.clear()
            self._untried.pop(0)
            best = self._find_best()
            slower = [tried for tried in self._taken if tried > (best or 0)]
            if not self._untried or len(slower) >= _SLOWER_SIZES:
                self._best = best

    def _find_best(self) -> int | None:
        return min(self._taken, key=self._taken.__getitem__, default=None)
