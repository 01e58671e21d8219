"""`models rollback` and `retire`: the stages of models."""

from typing import Annotated, Any

import typer

from cli.database import open_database
from cli.options import Json
from cli.output.console import print_json, say
from db.registry import Turnover
from nightread.settings import read_settings
from worker.registry import promote as stages

Version = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="One version of a model bundle.")]


def rollback(
    to_shipped: Annotated[bool, typer.Option("--shipped", help="Restore the bundle that ships at once.")] = False,
    as_json: Json = False,
) -> None:
    """Restore the previous production model.

    Repeat to go further back. Models retired meanwhile are skipped; before the first model stands the one that ships.

    Example: nightread models rollback
    """
    settings = read_settings()
    turnover = stages.rollback(open_database(settings), settings, to_shipped=to_shipped)
    if as_json:
        print_json(describe_turnover(turnover))
    else:
        print_turnover(turnover)


def retire(
    model: Version,
    undo: Annotated[bool, typer.Option("--undo", help="Make a retired model a candidate again.")] = False,
    as_json: Json = False,
) -> None:
    """Take a model out of use: new runs with it are refused.

    Its results stay, and its open runs are finished. To retire the production model, promote another one first.

    Example: nightread models retire pneumonia-cnn75@1
    """
    need_version(model)
    settings = read_settings()
    stage, is_changed = stages.retire(open_database(settings), settings, model, undo=undo)
    if as_json:
        print_json({"model": model, "stage": stage.value, "changed": is_changed})
    elif is_changed:
        say(f"{model} is {stage.value}")
    else:
        say(f"{model} is {stage.value}, {'not retired: nothing to undo' if undo else 'nothing to change'}")


def need_version(model: str) -> None:
    """Refuse a name alone, which would mean another bundle tomorrow."""
    name, _, version = model.partition("@")
    if not (name and version):
        raise typer.BadParameter(f"{model} has no version: write NAME@VERSION", param_hint="NAME@VERSION")


def describe_turnover(turnover: Turnover) -> dict[str, Any]:
    """Return a promotion or rollback for a program."""
    replaced = turnover.replaced.reference if turnover.replaced else None
    return {
        "production": turnover.production.reference, "digest": turnover.production.digest, "replaced": replaced,
    }  # fmt: skip


def print_turnover(turnover: Turnover) -> None:
    """Write what a promotion or rollback has changed."""
    now, before = turnover.production.reference, turnover.replaced.reference if turnover.replaced else None
    say(f"{now} is in production{f', in place of {before}' if before else ''}")
    say("New runs use it, open runs keep their model. Install the bundle on every worker host.", style="dim")
