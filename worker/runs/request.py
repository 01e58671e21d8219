"""A request for a run: what `nightread enqueue`, `score` and schedules may say beside the paths."""

from dataclasses import dataclass, field, replace

from db.tables import RUN_KEY_LENGTH
from db.types import Priority
from nightread.errors import WrongValue
from worker.runs.guards import Guards, read_range


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a run beside its paths and its model.

    Attributes:
        name: for people; None: the first path's own name.
        key: a request that is repeated with it gets the run that exists; None: each request makes a run.
        priority: whose jobs go first.
        settle_s: seconds for which a file must not have changed before it is read; later ones are read then.
        only_new: leave out files that the model has scored or rejected, and that have not changed since.
        guards: limits by which the run's end is judged.
        schedule: name of the schedule that asks, and
        night: its night.
    """

    name: str | None = None
    key: str | None = None
    priority: Priority = Priority.NORMAL
    settle_s: float = 0.0
    only_new: bool = False
    guards: Guards = field(default_factory=Guards)
    schedule: str | None = None
    night: str | None = None

    def __post_init__(self) -> None:
        """Check the key.

        Raises:
            WrongValue: it is empty, or too long to be stored.
        """
        if self.key is not None and not 0 < len(self.key) <= RUN_KEY_LENGTH:
            raise WrongValue(f"a key has 1 to {RUN_KEY_LENGTH} characters; this one has {len(self.key)}")

    def expecting(self, scans: str | None) -> "Request":
        """Return the request with a range of scans to expect, such as "200..3000".

        Raises:
            WrongValue: it is no range.
        """
        if scans is None:
            return self
        least, most = read_range(scans)
        return replace(self, guards=replace(self.guards, least=least, most=most))
