"""`models promote`, `rollback` and `retire`: the stages of models."""

from typing import Annotated

import typer

from cli.database import open_database
from cli.options import Json
from cli.output.console import print_json, say, waiting
from db.registry import Turnover
from nightread.settings import read_settings
from worker.registry import promote as stages

Version = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="One version of a model bundle.")]


def promote(model: Version, as_json: Json = False) -> None:
    """Make a bundle the production model of new runs.

    Checks it on this machine first. Open runs keep their model; the previous production model becomes a candidate. No
    worker needs a restart, but every worker host needs the bundle.

    Example: nightread models promote pneumonia-cnn75@2
    """
    _need_version(model)
    settings = read_settings()
    engine = open_database(settings)
    with waiting("checking the model"):
        turnover = stages.promote(engine, settings, model)
    _print(turnover, as_json)


def rollback(as_json: Json = False) -> None:
    """Restore the previous production model.

    Repeat to go further back. Models retired meanwhile are skipped.

    Example: nightread models rollback
    """
    _print(stages.rollback(open_database()), as_json)


def retire(
    model: Version,
    undo: Annotated[bool, typer.Option("--undo", help="Make a retired model a candidate again.")] = False,
    as_json: Json = False,
) -> None:
    """Take a model out of use: new runs with it are refused.

    Its results stay, and its open runs are finished. To retire the production model, promote another one first.

    Example: nightread models retire pneumonia-cnn75@1
    """
    _need_version(model)
    settings = read_settings()
    stage, is_changed = stages.retire(open_database(settings), settings, model, undo=undo)
    if as_json:
        print_json({"model": model, "stage": stage.value, "changed": is_changed})
    elif is_changed:
        say(f"{model} is {stage.value}")
    else:
        say(f"{model} is {stage.value}, {'not retired: nothing to undo' if undo else 'nothing to change'}")


def _need_version(model: str) -> None:
    """Refuse a name alone, which would mean another bundle tomorrow."""
    name, _, version = model.partition("@")
    if not (name and version):
        raise typer.BadParameter(f"{model} has no version: write NAME@VERSION", param_hint="NAME@VERSION")


def _print(turnover: Turnover, as_json: bool) -> None:
    now, before = turnover.production.reference, turnover.replaced.reference if turnover.replaced else None
    if as_json:
        print_json({"production": now, "digest": turnover.production.digest, "replaced": before})
        return
    say(f"{now} is in production{f', in place of {before}' if before else ''}")
    say("New runs use it, open runs keep their model. Install the bundle on every worker host.", style="dim")
