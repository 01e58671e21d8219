"""Imports at start-up, which take nearly all of its time."""

import pytest

from tests.factories import write_jpeg
from tests.program import make_environment, run

#: What only some need: who has a server, draws tables, reads DICOM, trains. Named by their first names.
OF_OTHERS = (
    "alembic", "celery", "dotenv", "jinja2", "keras", "kombu", "psycopg", "pyarrow", "pydicom", "redis", "rich",
    "sqlalchemy.dialects.postgresql", "sqlalchemy.orm", "starlette", "tensorflow",
)  # fmt: skip
OF_SCORING = ("PIL", "numpy", "onnxruntime")


def list_imported(*arguments, env, cwd):
    done = run(*arguments, env=env | {"PYTHONPROFILEIMPORTTIME": "1"}, cwd=cwd)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def find(names, imported):
    return sorted(name for name in names if any(f"{module}.".startswith(f"{name}.") for module in imported))


@pytest.fixture
def env(tmp_path):
    env = make_environment(tmp_path)
    (tmp_path / "night").mkdir()
    write_jpeg(tmp_path / "night" / "a.jpg")
    run("score", tmp_path / "night", env=env, cwd=tmp_path)  # makes the database, which takes its migrations
    return env


def test_score_imports_nothing_that_only_others_need(env, tmp_path):
    imported = list_imported("score", tmp_path / "night", "--json", env=env, cwd=tmp_path)

    assert find(OF_SCORING, imported) == list(OF_SCORING)
    assert find(OF_OTHERS, imported) == []


@pytest.mark.parametrize("command", [("status", "--json"), ("results", "--format", "csv"), ("runs", "--json")])
def test_a_query_imports_nothing_that_scores(env, tmp_path, command):
    imported = list_imported(*command, env=env, cwd=tmp_path)

    assert find(["sqlalchemy"], imported) == ["sqlalchemy"]
    assert find(OF_OTHERS + OF_SCORING, imported) == []


def test_help_imports_no_more_than_it_needs_to_draw_itself(tmp_path):
    imported = list_imported("--help", env=make_environment(tmp_path), cwd=tmp_path)

    assert find(["typer"], imported) == ["typer"]
    others = [name for name in OF_OTHERS if name != "rich"]
    assert find([*others, *OF_SCORING, "pydantic", "sqlalchemy"], imported) == []


def test_list_of_models_opens_none(env, tmp_path):
    assert find(["onnxruntime"], list_imported("models", "list", env=env, cwd=tmp_path)) == []


def test_a_command_leaves_its_database_as_one_whole_file(env, tmp_path):
    for command in (["score", tmp_path / "night"], ["status"]):
        run(*command, env=env, cwd=tmp_path)

        assert [path.name for path in (tmp_path / "data" / "nightread").iterdir()] == ["nightread.db"]
