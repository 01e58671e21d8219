"""The program's commands, and the boundary at which every error becomes one line and an exit code."""

import gc
import sys
from typing import Annotated, NoReturn

import typer

from cli.commands import (
    bench as bench_module,
)
from cli.commands import (
    data,
    models,
    models_change,
    runs,
)
from cli.commands import (
    doctor as doctor_module,
)
from cli.commands import (
    drift as drift_module,
)
from cli.commands import (
    evaluate as evaluate_module,
)
from cli.commands import (
    predict as predict_module,
)
from cli.commands import (
    score as score_module,
)
from cli.commands import (
    shadow as shadow_module,
)
from cli.commands import (
    train as train_module,
)
from cli.commands import (
    worker as worker_module,
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
    "Score": (
        score_module.score,
        predict_module.predict,
        score_module.enqueue,
        score_module.retry,
        score_module.cancel,
        score_module.demo,
    ),
    "Look": (runs.runs, runs.status, runs.results, drift_module.drift),
    "Work": (worker_module.worker, worker_module.beat, worker_module.sweep),
    "Models": (train_module.train, evaluate_module.evaluate, train_module.export, shadow_module.shadow),
    "Operate": (doctor_module.doctor, bench_module.bench),
}
for _panel, _functions in _COMMANDS.items():
    for _function in _functions:
        app.command(rich_help_panel=_panel)(_function)
models_change.add_commands(models.app)
app.add_typer(data.app, name="data", rich_help_panel="Models")
app.add_typer(models.app, name="models", rich_help_panel="Models")
app.add_typer(doctor_module.db_app, name="db", rich_help_panel="Operate")


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
