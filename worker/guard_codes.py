"""Codes of the guards: the mark that a run gets when it is judged (`docs/reference/guards.md`)."""

from enum import StrEnum
from typing import Final


class GuardCode(StrEnum):
    """Mark of a run that was judged; the value is the stored code."""

    EMPTY = "empty"
    EMPTY_SOURCE = "empty-source"
    TOO_FEW = "too-few"
    TOO_MANY = "too-many"
    ONE_REASON = "one-reason"
    REJECTED = "rejected"
    FAILED = "failed"
    DRIFT = "drift"
    PASSED = "passed"


#: Marks of a run that is no alarm: no guard tripped, or nobody has judged the run yet.
QUIET: Final = frozenset({None, GuardCode.PASSED})

#: What each code means, and what to do about it.
MEANINGS: Final[dict[GuardCode, tuple[str, str]]] = {
    GuardCode.EMPTY: (
        "no scan was found",
        "is the share mounted? `--allow-empty` if that is in order",
    ),
    GuardCode.EMPTY_SOURCE: (
        "one of several folders held no scan",
        "look at that folder; `nightread status` says which",
    ),
    GuardCode.TOO_FEW: (
        "fewer scans than expected, or than the schedule's last nights had",
        "look for scans that did not arrive; `--expect 200..3000` says what is usual",
    ),
    GuardCode.TOO_MANY: (
        "more scans than expected, or than the schedule's last nights had",
        "look for scans that are there twice; `--expect 200..3000` says what is usual",
    ),
    GuardCode.ONE_REASON: (
        "all scans are `rejected`, for one reason",
        "`nightread results --status rejected`, and `nightread explain` of that reason",
    ),
    GuardCode.REJECTED: (
        "more scans are `rejected` than allowed: over half of them by default",
        "`nightread results --status rejected`; `--max-rejected 5%` sets the limit",
    ),
    GuardCode.FAILED: (
        "more scans are `failed` than `--max-failed` allows",
        "`nightread results --status failed`; fix the cause; `nightread retry`",
    ),
    GuardCode.DRIFT: (
        "the scans look neither like the training data nor like the first night of their kind",
        "`nightread drift` shows how they differ; by chance one night in twenty does",
    ),
    GuardCode.PASSED: (
        "no guard tripped",
        "nothing",
    ),
}
