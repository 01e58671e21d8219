"""The rules for folders, files and imports."""

import ast
import re

import grimp
import pytest

from tests.factories import ROOT
from tests.project import read_packages

PACKAGES = read_packages()
SOURCES = sorted(path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py"))
MODULES = [path for path in SOURCES if path.name != "__init__.py" and "migrations" not in path.parts]
TESTS = sorted(ROOT.glob("tests/**/*.py"))
#: A command imports what it needs when it runs; everywhere else imports stand at the top.
MOST_IMPORTS_IN_FUNCTIONS = 60
MOST_LINES = 400
MOST_GERUNDS = 3


def name_of(path):
    return str(path.relative_to(ROOT))


def count_imports_in_functions(path):
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return sum(isinstance(node, ast.Import | ast.ImportFrom) for function in functions for node in ast.walk(function))


def find_packages(folder):
    return {path.parent.name for path in folder.glob("*/*.py")}


@pytest.mark.parametrize("init", [path for path in SOURCES if path.name == "__init__.py"], ids=name_of)
def test_init_docstring_maps_its_folder(init):
    docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
    mapped = re.findall(r"^([a-z_0-9]+)/?: \S", docstring, re.MULTILINE)
    files = {path.stem for path in init.parent.glob("*.py")} - {"__init__"}
    folders = {path.name for path in init.parent.iterdir() if path.is_dir()} - {"__pycache__"}
    assert sorted(mapped) == sorted(files | {name for name in mapped if name in folders} | find_packages(init.parent))


def test_files_are_nouns():
    gerunds = [name_of(path) for path in MODULES if path.stem.endswith("ing")]
    assert "nightread/scan/preprocessing.py" in gerunds  # the field's word
    assert len(gerunds) <= MOST_GERUNDS


def test_imports_in_functions_are_few():
    counts = {name_of(path): count_imports_in_functions(path) for path in SOURCES}
    assert sum(counts.values()) <= MOST_IMPORTS_IN_FUNCTIONS, {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("folder", ["", "tests"])
def test_modules_are_short(folder):
    files = [path for path in TESTS if not path.name.startswith("test_")] if folder else SOURCES
    lines = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert {name: count for name, count in lines.items() if count >= MOST_LINES} == {}


def test_modules_import_each_other_in_no_circle():
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while leaves := {module for module, imported in imports.items() if not imported & imports.keys()}:
        imports = {module: imported for module, imported in imports.items() if module not in leaves}
    assert imports == {}
