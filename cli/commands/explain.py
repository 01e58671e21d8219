"""`explain`: what a reason code, a mark of a run or an exit code means."""

from difflib import get_close_matches
from typing import Annotated

import typer

from cli import exits
from cli.completion import complete_codes
from cli.options import Json
from cli.output.console import print_json
from nightread import reasons
from nightread.reasons import Reason
from worker import guard_codes
from worker.guard_codes import GuardCode

_KINDS = {True: "rejected: the file is at fault", False: "failed: the system is at fault"}


def explain(
    code: Annotated[
        str,
        typer.Argument(
            metavar="CODE", help="Reason code of a scan, mark of a run, or exit code.", autocompletion=complete_codes
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say what a reason code, a mark of a run or an exit code means, and what to do.

    Example: nightread explain damaged
    """
    kind, meaning, remedy = _find(code)
    if as_json:
        print_json({"code": code, "kind": kind, "meaning": meaning, "what_to_do": remedy})
    else:
        typer.echo(f"{code} ({kind})\n  meaning:    {meaning}\n  what to do: {remedy}")


def _find(code: str) -> tuple[str, str, str]:
    """Return kind, meaning and remedy of a code."""
    if code in set(Reason):
        reason = Reason(code)
        return (_KINDS[reason.is_rejection], *reasons.MEANINGS[reason])
    if code in set(GuardCode):
        return ("mark of a run", *guard_codes.MEANINGS[GuardCode(code)])
    codes = {str(exit_code.value): exit_code for exit_code in exits.Exit}
    if code in codes:
        return ("exit code", *exits.MEANINGS[codes[code]])
    known = [*Reason, *GuardCode, *codes]
    near = get_close_matches(code, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise typer.BadParameter(f"there is no code {code[:40]!r}; {hint}")
