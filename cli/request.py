"""A request for a run from the options of a command."""

from typing import Annotated

import typer

from db.types import Priority
from worker.runs.guards import Guards
from worker.runs.request import Request

AsPriority = Annotated[
    Priority, typer.Option("--priority", help="Whose jobs go first: urgent, normal or bulk.", case_sensitive=False)
]


def make_request(  # one argument for each option
    *,
    name: str | None = None,
    key: str | None = None,
    priority: Priority = Priority.NORMAL,
    settle_s: float = 0.0,
    only_new: bool = False,
    max_rejected: str = "50%",
    max_failed: str | None = None,
    expect: str | None = None,
    allow_empty: bool = False,
    drift_alarm: bool = False,
) -> Request:
    """Return a request from the options of a command.

    Raises:
        WrongValue: one of them is wrong.
    """
    guards = Guards(max_rejected=max_rejected, max_failed=max_failed, allow_empty=allow_empty, drift_alarm=drift_alarm)
    request = Request(name=name, key=key, priority=priority, settle_s=settle_s, only_new=only_new, guards=guards)
    return request.expecting(expect)
