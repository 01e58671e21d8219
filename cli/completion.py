"""Completion of arguments by the shell; `cli.offers` looks them up, and is imported only then.

It must not write, wait long or print: a database that is not there, or does not answer, offers nothing.
"""

from collections.abc import Callable
from importlib import import_module

from cli.exits import MEANINGS as EXIT_MEANINGS
from nightread.reasons import MEANINGS as REASON_MEANINGS
from worker.guard_codes import MEANINGS as GUARD_MEANINGS


def _offer(name: str) -> Callable[[str], list[tuple[str, str]]]:
    def complete(incomplete: str) -> list[tuple[str, str]]:
        try:
            offers = getattr(import_module("cli.offers"), name)()
        except Exception:  # noqa: BLE001  # a traceback would tear the line that is being typed
            return []
        return [offer for offer in offers if offer[0].startswith(incomplete)]

    return complete


complete_runs = _offer("offer_runs")
complete_models = _offer("offer_models")
complete_schedules = _offer("offer_schedules")


def complete_codes(incomplete: str) -> list[tuple[str, str]]:
    """Return the codes that begin with what is typed: reasons, marks of runs, and exit codes."""
    meanings = {
        str(code.value): meaning
        for codes in (REASON_MEANINGS, GUARD_MEANINGS, EXIT_MEANINGS)
        for code, (meaning, _) in codes.items()
    }
    return [(code, meaning) for code, meaning in meanings.items() if code.startswith(incomplete)]
