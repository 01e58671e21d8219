"""Help pages as plain text: options by panel, the example last."""

import importlib.metadata
import inspect
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin

from typer.core import TyperCommand, TyperGroup

#: Widest help page, in characters; a narrower terminal narrows it.
WIDTH: Final = 100
#: Panel of options without one.
OPTIONS: Final = "Options"
#: Panel of the options that every command has.
GLOBAL: Final = "Global options"

#: Inside a paragraph.
_LINE_BREAK: Final = re.compile(r"(?<!\n)\n(?!\n)")
_EXAMPLE: Final = "Example: "
#: Names of values on help pages.
_METAVARS: Final[dict[type, str]] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def split_docstring(function: Any) -> tuple[str, str]:
    """Return the docstring of a command without its example, each paragraph on one line, and the example."""
    text, _, example = (inspect.getdoc(function) or "").partition(_EXAMPLE)
    return _LINE_BREAK.sub(" ", text.strip()), _LINE_BREAK.sub(" ", example.strip())


def name_values(command: Any) -> None:
    """Give each option of a command a short name for its value, in place of the name of its Python type."""
    for parameter in command.params:
        if parameter.metavar is None:
            parameter.metavar = _name_value(parameter.type_descriptor.annotation)


def _name_value(kind: Any) -> str:
    if get_origin(kind) is UnionType or type(None) in get_args(kind):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(one.value) for one in kind)
    return _METAVARS.get(kind, "TEXT")


class PanelCommand(TyperCommand):
    """A command whose help page has its options by panel and ends in an example."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line, without the braces and dots around an argument."""
        return [
            piece.replace("{", "").replace("}...", "").replace("}", "").replace("[[", "[").replace("]]...", "]")
            for piece in super().collect_usage_pieces(ctx)
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then each panel of options."""
        _write_panels(formatter, _list_options(self.get_params(ctx), ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # Click's interface
        """Write the example as it is typed, without line breaks."""
        _write_example(self.epilog, formatter)


class PanelGroup(TyperGroup):
    """A group of commands whose help page has them by panel."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write commands by panel, then options."""
        commands = (
            (getattr(command, "rich_help_panel", None) or "Commands", (name, command.help or ""))
            for name, command in self.commands.items()
            if not command.hidden
        )
        _write_panels(formatter, commands)
        _write_panels(formatter, _list_options(self.get_params(ctx), ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # Click's interface
        """Write the example as it is typed, without line breaks."""
        _write_example(self.epilog, formatter)


def _list_options(parameters: Iterable[Any], ctx: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    for parameter in parameters:
        if record := parameter.get_help_record(ctx):
            name, text = record
            if parameter.param_type_name == "argument":
                yield "Arguments", (name.partition(" <")[0], text)
            else:
                yield GLOBAL if parameter.name == "help" else parameter.rich_help_panel or OPTIONS, (name, text)


def _write_panels(formatter: Any, rows: Iterable[tuple[str, tuple[str, str]]]) -> None:
    panels: dict[str, list[tuple[str, str]]] = {}
    for panel, row in rows:
        panels.setdefault(panel, []).append(row)
    for panel in sorted(panels, key=lambda panel: panel == GLOBAL):  # stable: the others keep their order
        with formatter.section(panel):
            formatter.write_dl(panels[panel])


def _write_example(example: str | None, formatter: Any) -> None:
    if documentation := _find_url("Documentation"):
        formatter.write(f"\nDocumentation: {documentation}\n")
    if example:
        formatter.write(f"\n{_EXAMPLE}{example}\n")


def explain_report() -> str:
    """Return how to report a fault."""
    address = _find_url("Issues")
    where = f" at {address}" if address else ""
    return f"Please report it{where} with the lines above; take out paths that name patients."


def _find_url(name: str) -> str:
    """Return a URL of `pyproject.toml`, which alone has them; "" if the package is not installed."""
    try:
        urls = importlib.metadata.metadata("nightread").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    return next((url.partition(", ")[2] for url in urls if url.startswith(f"{name}, ")), "")
