"""The program's commands, and the boundary at which every error becomes one line and an exit code."""

import gc
import sys
from typing import Annotated, NoReturn

import typer

from cli import (
    benching,
    data,
    drifting,
    evaluating,
    models,
    operating,
    registry,
    runs,
    scoring,
    shadowing,
    training,
    working,
)
from cli.exits import Exit, explain

app = typer.Typer(
    name="nightread",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = {
    "Score": (scoring.score, evaluating.predict, scoring.enqueue, scoring.retry, scoring.cancel, scoring.demo),
    "Look": (runs.runs, runs.status, runs.results, drifting.drift),
    "Work": (working.worker, working.beat, working.sweep),
    "Models": (training.train, evaluating.evaluate, training.export, shadowing.shadow),
    "Operate": (operating.doctor, benching.bench),
}
for _panel, _functions in _COMMANDS.items():
    for _function in _functions:
        app.command(rich_help_panel=_panel)(_function)
registry.add_commands(models.app)
app.add_typer(data.app, name="data", rich_help_panel="Models")
app.add_typer(models.app, name="models", rich_help_panel="Models")
app.add_typer(operating.db_app, name="db", rich_help_panel="Operate")


def _show_version(asked: bool) -> None:
    if asked:
        from nightread import __version__

        typer.echo(f"nightread {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Scores a night's chest X-rays for pneumonia: enqueue folders, score them, query the results.

    Example: nightread score FOLDER
    """


def run() -> NoReturn:
    """Run the program; the console script's entry."""
    try:
        _call()
    finally:
        gc.freeze()  # what is left goes with the process: the interpreter would look through all of it for garbage


def _call() -> NoReturn:
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("nightread: interrupted\n")
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:
        understood = explain(error)
        if understood is None:
            raise
        message, code = understood
        sys.stderr.write(f"nightread: {message}\n")
        sys.exit(code)
    sys.exit(Exit.OK)
