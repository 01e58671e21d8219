"""The mutation run names functions and tests that exist; after a rename it would try nothing."""

import ast

import pytest

from studies.mutant_targets import TARGETS
from studies.mutants import list_mutants
from tests.factories import ROOT

IDS = [f"{target.guards}-{target.module}" for target in TARGETS]


@pytest.mark.parametrize("target", TARGETS, ids=IDS)
def test_each_target_exists(target):
    tree = ast.parse((ROOT / f"{target.module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    named = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert set(target.functions) <= named
    assert [test for test in target.tests if not (ROOT / test).is_file()] == []


def test_a_mutant_is_the_module_with_one_change():
    target = next(target for target in TARGETS if target.module == "db.guards")
    original = ast.unparse(ast.parse((ROOT / "db/guards.py").read_text(encoding="utf-8")))
    mutants = list(list_mutants(target))
    assert len(mutants) > 10
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    assert all(mutant.source != original for mutant in mutants)
    for mutant in mutants:
        compile(mutant.source, "mutant", "exec")
