"""The repository's own files, as tests read them."""

import re
import tomllib

import typer
from typer.core import TyperGroup

from cli.main import app
from tests.factories import ROOT

PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def read_packages():
    """Return the names of the packages in the wheel."""
    return tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def find_table_cells(text, column=0):
    """Return the code words in one column of all tables of a page."""
    cells = []
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            parts = re.split(r"(?<!\\)\|", line)[1:-1]
            if column < len(parts):
                cells += re.findall(r"`([^`]+)`", parts[column])
    return cells


def find_commands(command, name=""):
    """Return every command of the program with its options, by name."""
    if isinstance(command, TyperGroup):
        found = {}
        for child, deeper in command.commands.items():
            found |= find_commands(deeper, f"{name} {child}".strip())
        return found
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return {name: options}


COMMANDS = find_commands(typer.main.get_command(app))
