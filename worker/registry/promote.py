"""Promote, roll back and retire models: what `nightread models promote`, `rollback` and `retire` do, from Python."""

from sqlalchemy import Engine

from db.engine import reading, write
from db.registry import (
    Request,
    Turnover,
    find_model,
    promote_model,
    register_model,
    restore_model,
    retire_model,
    roll_back,
)
from db.types import ModelStage
from nightread.machine import count_cores, name_user
from nightread.model.bundle import find_bundle, load_bundle
from nightread.settings import Settings
from worker.registry.choose import choose_bundle, describe_model


def promote(engine: Engine, settings: Settings, model: str) -> Turnover:
    """Make a bundle the production model, after checking it on this machine; new runs use it unless they name another.

    Args:
        engine: the database, its schema checked.
        settings: `models_dir` and device.
        model: NAME@VERSION.

    Raises:
        ModelError: the bundle is missing, damaged or not reproduced here.
        DeviceError: the device that was asked for is not active.
        WrongStage: the model is retired.
    """
    from nightread.inference.scorer import Scorer  # ONNX Runtime: neither `rollback` nor `retire` needs it

    bundle = choose_bundle(engine, settings.model_copy(update={"model": model})).bundle
    Scorer(bundle, settings.device, settings.threads or count_cores())
    request = Request(name_user())
    return write(engine, lambda connection: promote_model(connection, describe_model(bundle), request))


def rollback(engine: Engine) -> Turnover:
    """Restore the previous production model; repeated, the one before that. Retired models are skipped.

    Raises:
        WrongStage: there is no previous production model.
    """
    request = Request(name_user())
    return write(engine, lambda connection: roll_back(connection, request))


def retire(engine: Engine, settings: Settings, model: str, *, undo: bool = False) -> tuple[ModelStage, bool]:
    """Take a model out of use, or back; its predictions stay, and its open runs are finished.

    Args:
        engine: the database, its schema checked.
        settings: `models_dir`, where a model is looked for that the database does not know.
        model: NAME@VERSION.
        undo: make a retired model a candidate again.

    Returns:
        The model's stage, and whether it has changed.

    Raises:
        ModelError: neither the database nor this machine has the model.
        WrongStage: it is in production.
    """
    name, _, version = model.partition("@")
    with reading(engine) as connection:
        stored = find_model(connection, name, version)
    if stored is None:  # a bundle of this machine that no run has used
        unused = describe_model(load_bundle(find_bundle(model, settings.models_dir)))
        write(engine, lambda connection: register_model(connection, unused))
    digest = unused.digest if stored is None else stored.digest
    request, change = Request(name_user()), restore_model if undo else retire_model
    is_changed = write(engine, lambda connection: change(connection, digest, request))
    with reading(engine) as connection:
        now = find_model(connection, name, version)
    if now is None:
        raise AssertionError("unreachable: it was written above")
    return now.stage, is_changed
