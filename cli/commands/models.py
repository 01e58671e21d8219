"""`models`: the registry of model bundles, on this machine and in the database."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json

if TYPE_CHECKING:
    from db.registry import StageEntry
    from nightread.inference.bundle_check import Checked
    from worker.registry.inventory import Entry

app = typer.Typer(help="The model bundles: import, check, compare and promote them.", no_args_is_help=True)

Reference = Annotated[
    str, typer.Argument(metavar="[NAME[@VERSION]]", help="A model bundle; the one that a new run takes if left out.")
]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the bundles of this machine and of the database, with their stages and where the two differ.

    Example: nightread models list
    """
    from cli.commands.runs import open_database
    from cli.output.console import print_json, say
    from cli.output.tables import make_table, out
    from nightread.errors import ModelError, WrongStage
    from nightread.settings import read_settings
    from worker.registry.choose import choose_bundle
    from worker.registry.inventory import list_registry

    settings = read_settings()
    engine = open_database()
    entries = list_registry(engine, settings)
    in_use = why_none = ""
    try:
        in_use = choose_bundle(engine, settings).bundle.card.reference
    except (ModelError, WrongStage) as error:
        why_none = str(error)
    if as_json:
        print_json([_describe_entry(entry, in_use) for entry in entries])
        return
    table = make_table("", "model", "stage", "digest", "labels", "description")
    for entry in entries:
        told = entry.error or entry.difference
        table.add_row(
            "*" if entry.reference == in_use else "", entry.reference, entry.stage or "", (entry.digest or "")[:12],
            ", ".join(entry.labels), "\n".join(part for part in (entry.description, told) if part),
        )  # fmt: skip
    out.print(table)
    if why_none:
        say(f"a new run finds no model: {why_none}")


@app.command()
def show(model: Reference = "", as_json: Json = False) -> None:
    """Show a bundle's card: what it is for, what it was trained on, how good it is and where it fails.

    Its stage follows, and who changed it when.

    Example: nightread models show pneumonia-cnn75@1
    """
    from cli.commands.runs import open_database
    from cli.output.card_page import print_card
    from cli.output.console import print_json, say
    from cli.output.tables import out
    from db.engine import reading
    from db.registry import find_model, list_stage_changes
    from nightread.errors import ModelError
    from nightread.model.card import Card
    from nightread.settings import read_settings
    from worker.registry.choose import choose_bundle

    engine = open_database()
    name, _, version = model.partition("@")
    with reading(engine) as connection:
        stored = find_model(connection, name, version)
    try:
        choice = choose_bundle(engine, read_settings(model=model or None), allow_retired=True)
    except ModelError as error:
        if stored is None:
            raise
        say(f"from the database, since the bundle cannot be used here: {error}")
        card = Card.model_validate(stored.card)
    else:
        card = choice.bundle.card
        stored = stored or choice.stored
    stage = None if stored is None else stored.stage.value
    with reading(engine) as connection:
        changes = list_stage_changes(connection, card.digest)
    if as_json:
        print_json(
            card.model_dump(mode="json") | {"stage": stage, "stages": [_describe_change(one) for one in changes]}
        )
        return
    print_card(card, out)
    _print_stages(stage, changes)


@app.command()
def check(model: Reference = "", as_json: Json = False) -> None:
    """Check a bundle on this machine: every byte, the card, the graph, the device, and the scores.

    The scores are compared with those of the export in batches of 1, 2, 7 and 32 scans, and at every place of a batch.

    Example: nightread models check pneumonia-cnn75@1
    """
    from cli.commands.runs import open_database
    from cli.output.console import print_json
    from cli.output.tables import make_table, out
    from nightread.errors import CardMismatch
    from nightread.inference.bundle_check import check_bundle
    from nightread.model.bundle import find_bundle
    from nightread.settings import read_settings
    from worker.registry.choose import choose_bundle

    settings = read_settings()
    reference = model or settings.model
    if not reference:
        reference = choose_bundle(open_database(), settings).bundle.card.reference
    checked = check_bundle(find_bundle(reference, settings.models_dir), settings)
    if as_json:
        print_json(_describe_check(checked))
    else:
        table = make_table("", "check", "found", "allowed")
        for finding in checked.findings:
            table.add_row("ok" if finding.ok else "WRONG", finding.check, finding.found, finding.allowed)
        out.print(table)
    wrong = [finding for finding in checked.findings if not finding.ok]
    if wrong:
        raise CardMismatch(
            f"{reference} must not be served here: "
            + "; ".join(f"{finding.check}: {finding.found}" for finding in wrong)
            + ("; set NIGHTREAD_DEVICE=cpu, or export the bundle again" if checked.session else "")
        )
    if not as_json:
        out.print("the bundle is whole and reproduces its scores here", markup=False)


def _describe_entry(entry: "Entry", in_use: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "model": entry.reference, "in_use": entry.reference == in_use, "digest": entry.digest, "stage": entry.stage,
        "on_this_machine": entry.is_here, "in_database": entry.stage is not None,
        "difference": entry.difference or None,
    }  # fmt: skip
    if entry.error:
        return described | {"error": entry.error}
    return described | {"labels": list(entry.labels), "description": entry.description}


def _describe_change(change: "StageEntry") -> dict[str, Any]:
    return {
        "stage": change.stage.value, "cause": change.cause.value, "changed_by": change.changed_by,
        "changed_at": change.changed_at,
    }  # fmt: skip


def _describe_check(checked: "Checked") -> dict[str, Any]:
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


def _print_stages(stage: str | None, changes: "list[StageEntry]") -> None:
    from cli.output.console import show_time
    from cli.output.tables import make_table, out
    from nightread.text import show_text

    out.print(f"\nstage: {stage or 'none; the database does not know this bundle yet'}", markup=False)
    if changes:
        table = make_table("time", "what", "stage", "by")
        for change in changes:
            table.add_row(
                show_time(change.changed_at), change.cause.value, change.stage.value, show_text(change.changed_by)
            )
        out.print(table)
