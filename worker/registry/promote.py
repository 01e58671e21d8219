"""Promote, roll back and retire models: what `nightread models promote`, `rollback` and `retire` do, from Python."""

from sqlalchemy import Engine

from db.engine import reading, write
from db.registry import (
    Request,
    Turnover,
    find_model,
    promote_model,
    put_shipped_back,
    register_model,
    restore_model,
    retire_model,
    roll_back,
)
from db.types import ModelStage
from nightread.errors import ModelError, PromotionRefused
from nightread.machine import count_cores, name_user
from nightread.model.bundle import DEFAULT_MODEL, find_bundle, load_bundle
from nightread.settings import Settings
from worker.registry.choose import describe_model
from worker.registry.comparison import Comparison, compare_with_present


def promote(engine: Engine, settings: Settings, model: str, *, why: str = "") -> Turnover:
    """Make a bundle the production model, after checking it on this machine; new runs use it unless they name another.

    Args:
        engine: the database, its schema checked.
        settings: `models_dir`, `promote_floor` and device.
        model: NAME@VERSION.
        why: reason to promote it in spite of its figures; it is stored.

    Raises:
        ModelError: the bundle is missing, damaged or not reproduced here.
        PromotionRefused: its figures are below the floor or worse than those of the model in use, and no reason is
            given.
        DeviceError: the device that was asked for is not active.
        WrongStage: the model is retired.
    """
    return promote_compared(engine, settings, compare_with_present(engine, settings, model), why=why)


def promote_compared(engine: Engine, settings: Settings, comparison: Comparison, *, why: str = "") -> Turnover:
    """Make a compared bundle the production model, as `promote` does."""
    from nightread.inference.scorer import Scorer  # ONNX Runtime: neither `rollback` nor `retire` needs it

    bundle = comparison.bundle
    if comparison.faults and not why:
        raise PromotionRefused(
            f"{bundle.card.reference} is not promoted: {'; '.join(comparison.faults)}; to promote it all the same, say "
            "why with `--force --why TEXT`, which is stored"
        )
    Scorer(bundle, settings.device, settings.threads or count_cores())
    request = Request(name_user(), why if comparison.faults else "")
    return write(engine, lambda connection: promote_model(connection, describe_model(bundle), request))


def rollback(engine: Engine, settings: Settings, *, to_shipped: bool = False) -> Turnover:
    """Restore the previous production model; repeated, the one before that. Retired models are skipped.

    Where no model was before, the bundle that ships takes its place.

    Args:
        engine: the database, its schema checked.
        settings: `models_dir`.
        to_shipped: restore the bundle that ships at once, retired or not.

    Raises:
        WrongStage: there is no production model to roll back from.
        ModelError: the bundle that ships cannot be read.
    """
    request = Request(name_user())
    try:
        shipped = describe_model(load_bundle(find_bundle(DEFAULT_MODEL, settings.models_dir)))
    except ModelError:
        if to_shipped:
            raise
        shipped = None
    if to_shipped and shipped is not None:
        return write(engine, lambda connection: put_shipped_back(connection, shipped, request))
    return write(engine, lambda connection: roll_back(connection, request, shipped))


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
