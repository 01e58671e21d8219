"""The table in docs/design.md matches the way of a scan through the code."""

import ast
import re

import pytest

from tests.factories import ROOT

PAGE = (ROOT / "docs/design.md").read_text(encoding="utf-8").partition("## The way of a scan")[2].partition("\n## ")[0]
STEPS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith("|") and "`" in line
]
TYPES = {name for step in STEPS for name in re.findall(r"`([A-Z]\w+)`", step[3])}


def list_definitions(file):
    """Return the functions, methods and classes of a file."""
    names = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[2].strip("`"))
def test_each_function_of_the_walk_is_in_its_file(step):
    _, file, function, _ = step
    assert function.strip("`") in list_definitions(file.strip("`"))


def test_a_scan_passes_at_most_25_files_and_wears_at_most_8_types():
    assert len({step[1] for step in STEPS}) <= 25
    assert len(TYPES) <= 8


def test_the_types_of_the_walk_exist():
    files = [path for room in ("db", "nightread", "worker") for path in (ROOT / room).rglob("*.py")]
    assert set.union(*map(list_definitions, files)) >= TYPES
