"""Options that every command has: --quiet, --verbose, --color."""

import os
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from cli.help_page import GLOBAL
from cli.output import console

_LOG_LEVEL: Final = "NIGHTREAD_LOG_LEVEL"  # of this process and of those that it starts


class Color(StrEnum):
    """When output is colored."""

    AUTO = "auto"  # on a terminal, unless NO_COLOR is set
    ALWAYS = "always"
    NEVER = "never"


def _set_color(color: Color | None) -> None:
    """Set the variables that Rich obeys; child processes obey them too."""
    if color is Color.ALWAYS:
        os.environ.pop("NO_COLOR", None)
        os.environ["FORCE_COLOR"] = "1"
    elif color is Color.NEVER:
        os.environ.pop("FORCE_COLOR", None)
        os.environ["NO_COLOR"] = "1"


def _set_quiet(quiet: bool) -> None:
    if quiet:
        console.be_quiet()
        os.environ[_LOG_LEVEL] = "ERROR"


def _set_verbose(count: int) -> None:
    if count:
        console.be_verbose()
        os.environ[_LOG_LEVEL] = "INFO" if count == 1 else "DEBUG"


def _declare(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Only errors on stderr.", rich_help_panel=GLOBAL)
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, show_default=False, callback=_set_verbose, rich_help_panel=GLOBAL,
            help="Log to stderr what is done; -vv: in detail.",
        ),
    ] = 0,
    color: Annotated[
        Color | None,
        typer.Option("--color", callback=_set_color, help="Colors; default: auto.", rich_help_panel=GLOBAL),
    ] = None,
) -> None:  # fmt: skip
    """Declare the options; never called."""


def add_global_options(command: Any) -> None:
    """Add the options to a command, which does not get their values: their callbacks obey them."""
    single = typer.Typer(add_completion=False)
    single.command("declare")(_declare)
    declared = typer.main.get_command(single)
    for parameter in declared.params:
        parameter.expose_value = False
        command.params.append(parameter)
