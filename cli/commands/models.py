"""`models list` and `models show`: the registry of model bundles."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from cli.completion import complete_models
from cli.database import open_database
from cli.options import Json
from cli.output.card_page import print_card
from cli.output.console import print_json, say, show_time
from cli.output.private_file import write_private
from cli.output.tables import make_table, out
from db.engine import reading
from db.registry import StageEntry, find_model, list_stage_changes
from nightread.errors import ModelError, WrongStage
from nightread.model.card import Card
from nightread.settings import read_settings
from worker.registry.choose import choose_bundle
from worker.registry.inventory import Entry, list_registry
from worker.report.model_pages import render_card

Reference = Annotated[
    str,
    typer.Argument(
        metavar="[NAME[@VERSION]]",
        help="Model bundle; default: the one that a new run uses.",
        autocompletion=complete_models,
    ),
]


def list_models(as_json: Json = False) -> None:
    """List model bundles and stages, here and in the database.

    A star marks the bundle that a new run uses.

    Example: nightread models list
    """
    settings = read_settings()
    engine = open_database(settings)
    entries = list_registry(engine, settings)
    in_use = why_none = ""
    try:
        in_use = choose_bundle(engine, settings).bundle.card.reference
    except (ModelError, WrongStage) as error:
        why_none = str(error)
    if as_json:
        print_json([_describe_entry(entry, in_use) for entry in entries])
        return
    table = make_table(
        "", "model", "stage", "digest", "labels", "description", text=("description",),
        spare=("stage", "labels", "digest"),
    )  # fmt: skip
    for entry in entries:
        told = entry.error or entry.difference
        table.add_row(
            "*" if entry.reference == in_use else "", entry.reference, entry.stage or "", (entry.digest or "")[:12],
            ", ".join(entry.labels), "\n".join(part for part in (entry.description, told) if part),
        )  # fmt: skip
    out.print(table)
    if why_none:
        say(f"no model for a new run: {why_none}")


def show(
    model: Reference = "",
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the card as a page.")] = None,
    as_json: Json = False,
) -> None:
    """Show a bundle's card: purpose, training data, accuracy and limits.

    Below the card: the bundle's stage, and who changed it when.

    Example: nightread models show pneumonia-cnn75@1
    """
    engine = open_database()
    name, _, version = model.partition("@")
    with reading(engine) as connection:
        stored = find_model(connection, name, version)
    try:
        choice = choose_bundle(engine, read_settings(model=model or None), allow_retired=True)
    except ModelError as error:
        if stored is None:
            raise
        say(f"card from the database; the bundle on this machine cannot be used: {error}")
        try:
            card = Card.model_validate(stored.card)
        except ValidationError:
            raise ModelError(f"the card of {stored.reference} in the database is of another release: {error}") from None
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
    if html is not None:
        write_private(html, render_card(card, stage, changes))
        say(f"card: {html}")
        return
    print_card(card, out)
    _print_stages(stage, changes)


def _describe_entry(entry: Entry, in_use: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "model": entry.reference, "in_use": entry.reference == in_use, "digest": entry.digest, "stage": entry.stage,
        "on_this_machine": entry.is_here, "in_database": entry.stage is not None,
        "difference": entry.difference or None,
    }  # fmt: skip
    if entry.error:
        return described | {"error": entry.error}
    return described | {"labels": list(entry.labels), "description": entry.description}


def _describe_change(change: StageEntry) -> dict[str, Any]:
    return {
        "stage": change.stage.value, "cause": change.cause.value, "changed_by": change.changed_by,
        "changed_at": change.changed_at, "why": change.why,
    }  # fmt: skip


def _print_stages(stage: str | None, changes: list[StageEntry]) -> None:
    out.print(f"\nstage: {stage or 'none (not in the database yet)'}")
    if changes:
        table = make_table("time", "what", "stage", "by", "why", text=("why",), spare=("why",))
        for change in changes:
            table.add_row(
                show_time(change.changed_at), change.cause.value, change.stage.value, change.changed_by,
                change.why or "",
            )  # fmt: skip
        out.print(table)
