import importlib.util
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from cli.commands import train as train_module
from nightread.errors import NightreadError

app = typer.Typer()
app.command()(train_module.train)
app.command()(train_module.export)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "pediatric", "--data", "nowhere", "--out", "training"],
        ["export", "training", "--name", "mine", "--version", "1"],
    ],
)
def test_without_the_extra_the_remedy_is_named(monkeypatch, arguments):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, NightreadError)
    assert "uv sync --extra train" in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("command", ["train", "export"])
def test_help_ends_in_an_example(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: nightread {command}" in " ".join(result.stdout.split())


def test_the_commands_are_imported_without_anything_heavy():
    heavy = ("tensorflow", "keras", "numpy", "rich.progress")
    code = f"import sys, cli.commands.train; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
