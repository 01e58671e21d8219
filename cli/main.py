"""The command table, and the boundary where an error becomes one line and an exit code."""

import gc
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple, NoReturn

import typer
from typer.exceptions import TyperException

from cli.exits import Exit, explain
from cli.global_options import add_global_options
from cli.help_page import WIDTH, PanelCommand, PanelGroup, explain_report, name_values, split_docstring
from cli.output.console import first_sign
from cli.output.streams import prepare_streams
from nightread import __version__
from nightread.errors import is_interruption
from nightread.machine import end_at_once, end_in_order, end_without_threads
from nightread.settings_sources import ENV_FILE_VARIABLE, find_ignored_env_file
from nightread.text import show_text


class Command(NamedTuple):
    """A row of the command table.

    Attributes:
        name: the command as typed, including its group.
        place: FILE:FUNCTION in `cli.commands`, imported when the command is used.
        help: first line of the function's docstring.
        panel: heading on the help page; None in a group.
    """

    name: str
    place: str
    help: str
    panel: str | None = None


COMMANDS: Final = (
    Command("score", "score:score", "Score scans now, in this process, with no server.", "Score"),
    Command("predict", "predict:predict", "Score single scans and print the decisions; nothing is stored.", "Score"),
    Command("enqueue", "enqueue:enqueue", "Create a run for workers, publish its jobs and print its id.", "Score"),
    Command("retry", "retry:retry", "Requeue a run's failed scans; a run of `score` resumes in this process.", "Score"),
    Command("cancel", "cancel:cancel", "End a run: its open scans fail with the reason `cancelled`.", "Score"),
    Command("demo", "demo:demo", "Write a small night of real scans and score it.", "Score"),
    Command("runs", "runs:runs", "List runs, newest first.", "Results"),
    Command("status", "status:status", "Show a run's counts, and the pace of an open one.", "Results"),
    Command("results", "results:results", "Print a run's results: one row per label of a scan.", "Results"),
    Command("drift", "drift:drift", "Check whether a run's scans resemble the training data.", "Results"),
    Command("report", "report:report", "Write the report of a run: one HTML file that needs no server.", "Results"),
    Command("notify", "notify:notify", "Send the notice of a run now, to try NIGHTREAD_NOTIFY_URLS.", "Results"),
    Command("web", "web:web", "Serve the worklist page, on which people look at runs and scans.", "Results"),
    Command("marks export", "marks:export", "Write the marks of users as labels: a CSV file of path and label."),
    Command("verify", "verify:verify", "Score a run's files again and compare with what is stored.", "Results"),
    Command(
        "explain",
        "explain:explain",
        "Say what a reason code, a mark of a run or an exit code means, and what to do.",
        "Results",
    ),
    Command("worker", "worker:worker", "Score jobs until stopped; SIGTERM gives unfinished jobs back.", "Workers"),
    Command("beat", "beat:beat", "Sweep on time, and start the nights of schedules; workers do so too.", "Workers"),
    Command("sweep", "sweep:sweep", "Republish unfinished jobs that no worker holds.", "Workers"),
    Command(
        "receive", "receive:receive", "Receive scans by DICOM C-STORE, and enqueue each study once it is quiet.", "PACS"
    ),
    Command(
        "fetch", "fetch:fetch", "Fetch a day's chest radiographs from an archive, and enqueue them as one run.", "PACS"
    ),
    Command("send", "send:send", "Send a Structured Report of each study to a PACS, each at most once.", "PACS"),
    Command("schedule add", "schedule:add", "Add a schedule: workers and beats enqueue its folders, each night once."),
    Command("schedule list", "schedule:list_", "List schedules, their next night and what became of the last one."),
    Command("schedule remove", "schedule:remove", "Remove a schedule; its runs stay."),
    Command("schedule run", "schedule:run", "Start one night of a schedule now, unless it has a run."),
    Command("train", "train:train", "Train a network on labelled scans.", "Models"),
    Command(
        "evaluate",
        "evaluate:evaluate",
        "Compute a network's metrics on labelled scans, or those of a past run.",
        "Models",
    ),
    Command("export", "export:export", "Convert a trained network into a model bundle that workers serve.", "Models"),
    Command("calibrate", "calibrate:calibrate", "Calibrate a model bundle on labelled scans of one site.", "Models"),
    Command("shadow", "shadow:shadow", "Score a past run with another model and show what changes.", "Models"),
    Command("data fetch", "data:fetch", "Download a data set from its publisher."),
    Command("models list", "models:list_models", "List model bundles and stages, here and in the database."),
    Command("models show", "models:show", "Show a bundle's card: purpose, training data, accuracy and limits."),
    Command("models check", "models_check:check", "Check a bundle here: bytes, card, graph, device and scores."),
    Command("models import", "models_import:import_model", "Import a bundle or an ONNX file as a candidate."),
    Command("models promote", "models_promote:promote", "Make a bundle the production model of new runs."),
    Command("models rollback", "models_stage:rollback", "Restore the previous production model."),
    Command("models retire", "models_stage:retire", "Take a model out of use: new runs with it are refused."),
    Command("config", "config:config", "Show each setting, its value and its source.", "Operations"),
    Command("doctor", "doctor:doctor", "Check this host: machine, database, broker, model and device.", "Operations"),
    Command("bench", "bench:bench", "Measure scoring speed by stage, against this machine's limit.", "Operations"),
    Command("metrics", "metrics:metrics", "Serve the state of the database to Prometheus.", "Operations"),
    Command("prune", "prune:prune", "Delete runs that ended long ago, with all that belongs to them.", "Operations"),
    Command("db backup", "db:backup", "Write a backup of the database to a file, while workers go on."),
    Command("db restore", "db:restore", "Fill an empty database from a backup."),
    Command("db check", "db:check", "Check that the rows of the database agree with each other."),
    Command("db partition", "db:partition", "Divide the tables of a PostgreSQL server into partitions."),
    Command("db upgrade", "db:upgrade", "Create the tables or upgrade them to this release's schema."),
)
#: Groups of commands with their help and panel.
GROUPS: Final = {
    "data": ("Training data sets.", "Models"),
    "marks": ("Marks of users on scans.", "Results"),
    "models": ("Model bundles: import, check, compare and promote.", "Models"),
    "schedule": ("What is enqueued night after night.", "Workers"),
    "db": ("Results database.", "Operations"),
}
_ROWS: Final = {command.name: command for command in COMMANDS}
_PROGRAM: Final = "nightread"
_HELP: Final = "help"
_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}


@contextmanager
def _interruption_as_abort() -> Iterator[None]:
    """Hand an interruption on to `_call`; Typer would end without a line."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Abort from None


class CommandTable(PanelGroup):
    """A group of commands: its help comes from the table, and the command that is used is imported."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        """Read the command line."""
        with _interruption_as_abort():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _interruption_as_abort():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return name, command and remaining arguments, the command imported; `help NAME` is `NAME --help`."""
        if args[0] == _HELP:
            if not args[1:]:
                typer.echo(ctx.get_help())
                ctx.exit()
            args = [*args[1:], "--help"]
        name, command, rest = super().resolve_command(ctx, args)
        row = _ROWS.get(f"{name}" if self.name == _PROGRAM else f"{self.name} {name}")
        if row is None or ctx.resilient_parsing:  # completion writes to the same terminal
            return name, command if row is None else load_command(row), rest
        with first_sign():
            return name, load_command(row), rest


def load_command(row: Command) -> Any:
    """Import a command's function and return it as a command; its help page is its docstring."""
    file, _, name = row.place.partition(":")
    function = getattr(import_module(f"cli.commands.{file}"), name)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    text, example = split_docstring(function)
    single.command(
        row.name.rpartition(" ")[2], cls=PanelCommand, help=text, epilog=example, context_settings=_CONTEXT
    )(function)  # fmt: skip
    command = typer.main.get_command(single)
    add_global_options(command)
    name_values(command)
    return command


def _make_app() -> typer.Typer:
    app = typer.Typer(
        name=_PROGRAM,
        cls=CommandTable,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=_CONTEXT,
    )
    groups = {"": app}
    for name, (text, panel) in GROUPS.items():
        groups[name] = typer.Typer(cls=CommandTable, no_args_is_help=True, rich_markup_mode=None)
        app.add_typer(groups[name], name=name, help=text, rich_help_panel=panel, context_settings=_CONTEXT)
    for row in COMMANDS:
        group, _, name = row.name.rpartition(" ")
        groups[group].command(name, help=row.help, rich_help_panel=row.panel)(lambda: None)  # for the help page alone
    return app


app: Final = _make_app()


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"nightread {__version__}")
        raise typer.Exit


@app.callback(epilog="nightread score FOLDER")
def main(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Score a night's chest X-rays for pneumonia and query the results."""
    if find_ignored_env_file():
        sys.stderr.write(
            "nightread: the file .env in this folder is not read: a scan folder must not change settings; move it "
            f"to ~/.config/nightread, or name it in {ENV_FILE_VARIABLE}\n"
        )


def run() -> NoReturn:
    """Run the program: entry point of the console script."""
    end_in_order()
    os.umask(0o077)  # what it writes is its user's alone: paths and reports may tell of patients
    prepare_streams()
    try:
        _call()
    except SystemExit as ended:
        if ended.code == Exit.INTERRUPTED and threading.active_count() > 1:
            end_without_threads(Exit.INTERRUPTED)
        raise
    finally:
        end_at_once()
        gc.freeze()  # the interpreter would otherwise search all remaining objects for garbage


def _call() -> NoReturn:
    command = typer.main.get_command(app)
    add_global_options(command)
    name_values(command)
    try:
        code = command(standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        _explain_usage(error)
        sys.exit(error.exit_code)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the boundary of the process
        understood = explain(error)
        if understood is None and (isinstance(error, typer.Abort) or is_interruption(error)):
            understood = "interrupted", Exit.INTERRUPTED
        if understood is None:
            traceback.print_exc()
            sys.stderr.write(f"{_PROGRAM}: this is a fault of Nightread. {explain_report()}\n")
            sys.exit(Exit.ERROR)
        message, code = understood
        sys.stderr.write(f"{_PROGRAM}: {message}\n")
        sys.exit(code)
    sys.exit(code or Exit.OK)


def _explain_usage(error: TyperException) -> None:
    """Write what is wrong with a command line; a group without a command shows its help page."""
    message = error.format_message().removeprefix("Invalid value: ")
    context = getattr(error, "ctx", None)
    if message.startswith("Usage:"):
        sys.stderr.write(f"{message}\n")
        return
    hint = f" (see `{context.command_path} --help`)" if context else ""
    if isinstance(error.__cause__, ValueError) and hasattr(error.__cause__, "errors"):
        from nightread.field_faults import describe_fault  # pydantic, which Typer has used by now

        parameter = getattr(error, "param", None)
        message = f"{parameter.opts[0] if parameter else 'a value'}: {describe_fault(error.__cause__.errors()[0])}"
    sys.stderr.write(f"{_PROGRAM}: {show_text(' '.join(message.split()).rstrip('.'))}{hint}\n")
