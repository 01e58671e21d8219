"""`models promote`: puts a model in production, once its figures have been seen."""

import sys
from typing import Annotated

import typer

from cli.commands.models_stage import Version, describe_turnover, need_version, print_turnover
from cli.database import open_database
from cli.options import Json
from cli.output.comparison_page import print_comparison
from cli.output.console import print_json, waiting
from cli.output.tables import out
from nightread.settings import read_settings
from worker.registry import promote as stages
from worker.registry.comparison import compare_with_present


def promote(
    model: Version,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote in spite of the figures; needs --why.")] = False,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Reason of --force; it is stored.")] = "",
    as_json: Json = False,
) -> None:
    """Make a bundle the production model of new runs.

    Shows its figures beside those of the model in use, and what changes in the last night if `shadow` has scored it;
    then asks. A model below NIGHTREAD_PROMOTE_FLOOR, or worse than the one in use, needs --force and --why. The bundle
    is checked on this machine first. Open runs keep their model; the previous production model becomes a candidate. No
    worker needs a restart, but every worker host needs the bundle.

    Example: nightread models promote pneumonia-cnn75@2
    """
    need_version(model)
    if force is not bool(why.strip()):
        raise typer.BadParameter("--force and --why TEXT belong together", param_hint="--force")
    settings = read_settings()
    engine = open_database(settings)
    comparison = compare_with_present(engine, settings, model)
    if not as_json:
        print_comparison(comparison, out)
    if force or not comparison.faults:  # else it is refused below
        _ask(model, yes=yes)
    with waiting("checking the model"):
        turnover = stages.promote_compared(engine, settings, comparison, why=why.strip())
    if as_json:
        print_json(describe_turnover(turnover) | {"comparison": comparison.describe()})
    else:
        print_turnover(turnover)


def _ask(model: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"there is no terminal to ask on: add --yes to promote {model}", param_hint="--yes")
    typer.confirm(f"promote {model}?", abort=True, err=True)
