"""The errors of runs and jobs, each in one line with its remedy."""

from nightread.errors import NightreadError


class BrokerUnavailable(NightreadError):
    """The broker does not answer; enqueued jobs are safe in the database."""


class WrongPaths(NightreadError):
    """A named path does not exist, or may not be read."""


class NothingToScore(NightreadError):
    """The paths hold no scan."""


class NothingNew(NightreadError):
    """Only new scans were asked for, and there are none; that is in order."""


class WrongKey(NightreadError):
    """The idempotency key of a request belongs to a run over other paths."""


class LeaseLost(NightreadError):
    """Another worker has taken over the job; the results of this one do not count."""


class GuardTripped(NightreadError):
    """A run does not look like a night, and what was asked is not done with such a run without being told to."""
