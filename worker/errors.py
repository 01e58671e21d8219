"""The errors of enqueueing and working, each told in one line with its remedy."""

from nightread.errors import NightreadError


class BrokerUnavailable(NightreadError):
    """The broker does not answer; what was enqueued is safe in the database."""


class WrongPaths(NightreadError):
    """A path that was asked for is not there, or may not be read."""


class NothingToScore(NightreadError):
    """The paths hold no scan at all."""


class LeaseLost(NightreadError):
    """Another worker has taken over the job; what this one computes is no longer wanted."""
