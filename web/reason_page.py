"""The page of a run's scans without a score: each reason with its meaning, the remedy and examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from db.run_report import ReasonExample, list_examples
from db.tallies import read_tallies, reconcile
from nightread.reasons import MEANINGS, Reason
from web.filters import WorklistFilter
from web.lookup import find_requested_run, reading_request
from web.run_actions import explain_retry
from web.showing import render

_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class ListedReason:
    """A reason with its scans.

    Attributes:
        code: the reason code.
        status: rejected or failed.
        count: scans of the run with it.
        meaning: what it means; "" for a code of another release.
        remedy: what to do.
        query: URL query of the worklist of its scans.
        examples: some of its scans.
    """

    code: str
    status: str
    count: int
    meaning: str
    remedy: str
    query: str
    examples: Sequence[ReasonExample]


def show_failures(request: Request) -> Response:
    """Show why scans of a run have no score, the most frequent reason first; those that failed before the rejected."""
    with reading_request(request) as connection:
        run = find_requested_run(connection, request)
        tally = read_tallies(connection, [run.id])[run.id]
        counted = [
            (status, code, count)
            for status in ("failed", "rejected")
            for code, count in sorted(tally.reasons[status].items(), key=lambda item: (-item[1], item[0]))
        ]
        examples = list_examples(connection, run.id, [(status, code) for status, code, _ in counted], _EXAMPLES)
    reasons = [
        ListedReason(
            code, status, count, *explain_reason(code), WorklistFilter(reason=code).to_query(),
            [one for one in examples if (one.status, one.reason) == (status, code)],
        )
        for status, code, count in counted
    ]  # fmt: skip
    return render(
        request, "failures.html", run=run, reasons=reasons, failed=tally.counts.failed,
        sentence=reconcile(run.found, tally.counts), why_no_retry=explain_retry(request.app.state.settings, run),
    )  # fmt: skip


def explain_reason(code: str | None) -> tuple[str, str]:
    """Return the meaning of a reason and what to do; two empty texts for none, or for one of another release."""
    try:
        return MEANINGS[Reason(code)] if code else ("", "")
    except (ValueError, KeyError):
        return "", ""
