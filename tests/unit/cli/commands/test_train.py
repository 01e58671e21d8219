import importlib.util
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from cli.commands.export import export
from cli.commands.train import train
from nightread.errors import NightreadError

app = typer.Typer()
app.command()(train)
app.command()(export)


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


def test_the_commands_are_imported_without_anything_heavy():
    heavy = ("tensorflow", "keras", "numpy", "rich.progress")
    code = (
        f"import sys, cli.commands.export, cli.commands.train; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
