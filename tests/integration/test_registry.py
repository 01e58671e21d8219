"""Stages of models: one in production, rollback, and no lost change."""

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from db.engine import reading, write
from db.registry import (
    Request,
    check_identity,
    find_model,
    find_production,
    list_models,
    list_stage_changes,
    promote_model,
    register_model,
    restore_model,
    retire_model,
    roll_back,
)
from db.tables import models, stage_changes
from db.types import ModelStage, StageCause, database_now
from nightread.errors import DatabaseError, WrongStage
from tests.db_factories import add_run, at_once, fetch_run, new_model


def model(version):
    return new_model(version=version, digest=version * 64)


def register(engine, version):
    return write(engine, lambda connection: register_model(connection, model(version)))


def promote(engine, version, request=None):
    request = request or Request("ada@host")
    return write(engine, lambda connection: promote_model(connection, model(version), request))


def go_back(engine, request=None):
    request = request or Request("ada@host")
    return write(engine, lambda connection: roll_back(connection, request)).production.version


def retire(engine, version, change=retire_model):
    return write(engine, lambda connection: change(connection, version * 64, Request("ada@host")))


def production(engine):
    with reading(engine) as connection:
        found = find_production(connection)
    return None if found is None else found.version


def stages(engine):
    with reading(engine) as connection:
        return {found.version: found.stage.value for found in list_models(connection)}


def history(engine):
    with reading(engine) as connection:
        return [(change.model, change.cause.value) for change in list_stage_changes(connection)]


def test_a_model_is_a_candidate_until_it_is_promoted(engine):
    assert register(engine, "1") is True
    assert register(engine, "1") is False
    assert (stages(engine), production(engine)) == ({"1": "candidate"}, None)

    turnover = promote(engine, "1")

    assert (turnover.production.reference, turnover.replaced) == ("cnn@1", None)
    assert production(engine) == "1"


def test_promoting_takes_the_place_of_the_production_model_and_is_written_down(engine):
    promote(engine, "1")
    assert promote(engine, "2").replaced.version == "1"

    assert stages(engine) == {"1": "candidate", "2": "production"}
    assert history(engine) == [("cnn@1", "promoted"), ("cnn@1", "replaced"), ("cnn@2", "promoted")]
    with reading(engine) as connection:
        (change,) = list_stage_changes(connection, "2" * 64)
    assert (change.stage, change.cause, change.changed_by) == (ModelStage.PRODUCTION, StageCause.PROMOTED, "ada@host")
    assert change.changed_at.utcoffset().total_seconds() == 0


def test_promoting_the_production_model_again_changes_nothing(engine):
    promote(engine, "1")
    before = history(engine)
    assert promote(engine, "1").replaced is None
    assert history(engine) == before


def test_rollback_goes_back_one_step_each_time_until_there_is_none(engine):
    for version in ("1", "2", "3"):
        promote(engine, version)

    assert [go_back(engine), go_back(engine)] == ["2", "1"]
    with pytest.raises(WrongStage, match=r"no production model before cnn@1.*models promote"):
        go_back(engine)
    assert stages(engine) == {"1": "production", "2": "candidate", "3": "candidate"}


def test_rollback_after_a_rollback_and_a_promotion_leads_to_the_one_that_was_replaced(engine):
    promote(engine, "1")
    promote(engine, "2")
    go_back(engine)
    promote(engine, "3")
    assert go_back(engine) == "1"


def test_rollback_of_a_model_that_was_promoted_twice_takes_each_step(engine):
    for version in ("1", "2", "1"):
        promote(engine, version)
    assert [go_back(engine), go_back(engine)] == ["2", "1"]


def test_rollback_passes_over_a_retired_model(engine):
    for version in ("1", "2", "3"):
        promote(engine, version)
    retire(engine, "2")
    assert go_back(engine) == "1"


def test_rollback_without_any_production_model_is_refused_with_the_remedy(engine):
    register(engine, "1")
    with pytest.raises(WrongStage, match=r"no production model.*models promote"):
        go_back(engine)


def test_a_rollback_whose_answer_was_lost_is_not_done_twice(engine):
    for version in ("1", "2", "3"):
        promote(engine, version)
    request = Request("ada@host")
    assert [go_back(engine, request), go_back(engine, request)] == ["2", "2"]


def test_a_retired_model_takes_no_new_run_until_it_is_taken_back(engine):
    run_id = add_run(engine, 1, model=model("1"))
    assert retire(engine, "1") is True
    assert retire(engine, "1") is False

    with pytest.raises(WrongStage, match=r"cnn@1 is retired.*--model.*models retire cnn@1 --undo"):
        add_run(engine, 1, model=model("1"))
    with pytest.raises(WrongStage, match="retired"):
        promote(engine, "1")
    assert fetch_run(engine, run_id).model_digest == "1" * 64

    assert retire(engine, "1", restore_model) is True
    assert retire(engine, "1", restore_model) is False
    assert stages(engine) == {"1": "candidate"}
    add_run(engine, 1, model=model("1"))
    assert history(engine) == [("cnn@1", "retired"), ("cnn@1", "restored")]


def test_the_production_model_cannot_be_retired_before_another_is_promoted(engine):
    promote(engine, "1")
    with pytest.raises(WrongStage, match=r"cnn@1 is in production: promote another first"):
        retire(engine, "1")
    promote(engine, "2")
    assert retire(engine, "1") is True
    assert stages(engine) == {"1": "retired", "2": "production"}


def test_a_name_and_version_stay_with_their_digest(engine):
    register(engine, "1")
    other = new_model(version="1", digest="e" * 64)
    for call in (
        lambda connection: register_model(connection, other),
        lambda connection: promote_model(connection, other, Request("ada@host")),
        lambda connection: check_identity(connection, "cnn", "1", "e" * 64),
    ):
        with pytest.raises(DatabaseError, match=r"cnn@1 with another digest.*another version"):
            write(engine, call)
    assert stages(engine) == {"1": "candidate"}
    with reading(engine) as connection:
        assert find_model(connection, "cnn", "2") is None


def test_the_database_itself_holds_one_production_model(engine):
    promote(engine, "1")
    register(engine, "2")
    with pytest.raises(IntegrityError):
        write(engine, lambda connection: connection.execute(
            update(models).where(models.c.version == "2").values(stage=ModelStage.PRODUCTION)
        ))  # fmt: skip
    with pytest.raises(IntegrityError):
        write(engine, lambda connection: connection.execute(insert(stage_changes).values(
            request="0" * 32, model_digest="0" * 64, stage=ModelStage.RETIRED, cause=StageCause.RETIRED,
            changed_by="x", changed_at=database_now(),
        )))  # fmt: skip


def test_promotions_at_the_same_time_wait_for_each_other(engine):
    at_once([lambda version=version: promote(engine, version) for version in "1234"])

    in_production = [version for version, stage in stages(engine).items() if stage == "production"]
    assert in_production == [production(engine)]
    assert [cause for _, cause in history(engine)].count("promoted") == 4
    assert [cause for _, cause in history(engine)].count("replaced") == 3
    with reading(engine) as connection:
        last = connection.execute(select(stage_changes.c.model_digest).order_by(stage_changes.c.id.desc())).scalar()
    assert last == production(engine) * 64
