"""`models check`: checks a bundle on this machine."""

from typing import Any

from cli.commands.models import Reference
from cli.database import open_database
from cli.options import Json
from cli.output.console import print_json
from cli.output.tables import make_table, out, paint
from nightread.errors import CardMismatch
from nightread.inference.bundle_check import Checked, check_bundle
from nightread.model.bundle import find_bundle
from nightread.settings import read_settings
from worker.registry.choose import choose_bundle


def check(model: Reference = "", as_json: Json = False) -> None:
    """Check a bundle here: bytes, card, graph, device and scores.

    Compares the scores with those of the export, in batches of 1, 2, 7 and 32 scans and at every position of a batch.

    Example: nightread models check pneumonia-cnn75@1
    """
    settings = read_settings()
    reference = model or settings.model
    if not reference:
        reference = choose_bundle(open_database(settings), settings).bundle.card.reference
    checked = check_bundle(find_bundle(reference, settings.models_dir), settings)
    if as_json:
        print_json(_describe_check(checked))
    else:
        table = make_table("", "check", "found", "allowed", text=("found", "allowed"))
        for finding in checked.findings:
            table.add_row(paint("ok" if finding.ok else "fail"), finding.check, finding.found, finding.allowed)
        out.print(table)
    wrong = [finding for finding in checked.findings if not finding.ok]
    if wrong:
        raise CardMismatch(
            f"{reference} cannot be served on this machine: "
            + "; ".join(f"{finding.check}: {finding.found}" for finding in wrong)
            + ("; set NIGHTREAD_DEVICE=cpu, or export the bundle again" if checked.session else "")
        )
    if not as_json:
        out.print("the bundle is complete and reproduces its scores on this machine")


def _describe_check(checked: Checked) -> dict[str, Any]:
    bundle, session = checked.bundle, checked.session
    return {
        "model": bundle.card.reference if bundle else None,
        "digest": bundle.digest if bundle else None,
        "provider": session.provider if session else None,
        "runtime": session.runtime if session else None,
        "parity_scans": len(bundle.parity_inputs) if bundle else None,
        "parity": checked.parity,
        "allowed": checked.allowed,
        "ok": checked.ok,
        "checks": [
            {"check": finding.check, "ok": finding.ok, "found": finding.found, "allowed": finding.allowed}
            for finding in checked.findings
        ],
    }
