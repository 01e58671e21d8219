"""The registry of model bundles in the database: their stages, and who changed them when.

A unique index allows at most one model in production. Promotions, rollbacks and retirements take an advisory lock, so
that concurrent ones run one after the other and each sees the result of the one before.
"""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from db.dialects import insert_ignoring, wait_for_advisory_lock
from db.tables import models, stage_changes
from db.types import ModelStage, StageCause, database_now
from nightread.errors import DatabaseError, WrongStage
from nightread.failpoints import Point, failpoint

_STAGE_LOCK: Final = 7_201_123


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model bundle; a row of the table `models` without stage and time."""

    digest: str
    name: str
    version: str
    preprocessing: str
    card: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredModel(NewModel):
    """A model bundle that this database knows."""

    stage: ModelStage
    created_at: datetime

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class StageEntry:
    """One change of a model's stage."""

    digest: str
    model: str
    stage: ModelStage
    cause: StageCause
    changed_by: str
    changed_at: datetime
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One command that changes stages.

    Attributes:
        changed_by: user@host.
        why: reason of a promotion in spite of its figures, at most 500 characters; "" if none is needed.
        id: idempotency key: a request that is repeated after a lost connection takes effect once.
    """

    changed_by: str
    why: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class Turnover:
    """Result of a promotion or rollback.

    Attributes:
        production: the production model now.
        replaced: the production model before; None if there was none or nothing changed.
    """

    production: StoredModel
    replaced: StoredModel | None


def register_model(connection: Connection, model: NewModel) -> bool:
    """Insert a model as a candidate; an existing one is kept unchanged.

    Returns:
        Whether the model is new to this database.

    Raises:
        DatabaseError: the name and version are stored with another digest.
    """
    row = {
        "digest": model.digest, "name": model.name, "version": model.version, "preprocessing": model.preprocessing,
        "card": model.card, "stage": ModelStage.CANDIDATE, "created_at": database_now(),
    }  # fmt: skip
    is_known = connection.execute(select(models.c.digest).where(models.c.digest == model.digest)).scalar() is not None
    connection.execute(insert_ignoring(connection.dialect.name, models).values(row))
    check_identity(connection, model.name, model.version, model.digest)
    return not is_known


def check_identity(connection: Connection, name: str, version: str, digest: str) -> None:
    """Check that a name and version are not stored with another digest.

    Raises:
        DatabaseError: they are.
    """
    query = select(models.c.digest).where(models.c.name == name, models.c.version == version)
    stored = connection.execute(query).scalar()
    if stored not in {None, digest}:
        raise DatabaseError(
            f"the database has {name}@{version} with another digest; bundles never change: give the new one another "
            "version"
        )


def refuse_retired(connection: Connection, digest: str) -> None:
    """Check that a model may take new runs.

    Raises:
        WrongStage: it is retired.
    """
    # FOR SHARE: creating a run and retiring its model exclude each other.
    row = connection.execute(select(models).where(models.c.digest == digest).with_for_update(read=True)).first()
    if row is not None and row.stage is ModelStage.RETIRED:
        raise WrongStage(explain_retired(f"{row.name}@{row.version}"))


def explain_retired(reference: str) -> str:
    """Return the error message for a run with a retired model."""
    return (
        f"{reference} is retired and takes no new runs: name another with --model or NIGHTREAD_MODEL, or restore it "
        f"with `nightread models retire {reference} --undo`"
    )


def find_model(connection: Connection, name: str, version: str) -> StoredModel | None:
    """Return the model of a name and version; None if this database does not have it."""
    return _find(connection, models.c.name == name, models.c.version == version)


def find_production(connection: Connection) -> StoredModel | None:
    """Return the production model; None if there is none."""
    return _find(connection, models.c.stage == ModelStage.PRODUCTION)


def _find(connection: Connection, *wanted: ColumnElement[bool]) -> StoredModel | None:
    row = connection.execute(select(models).where(*wanted)).first()
    return None if row is None else _to_model(row)


def list_models(connection: Connection) -> list[StoredModel]:
    """Return all models of this database, sorted by name and version."""
    return [_to_model(row) for row in connection.execute(select(models).order_by(models.c.name, models.c.version))]


def list_stage_changes(connection: Connection, digest: str | None = None) -> list[StageEntry]:
    """Return the stage changes of all models or of one, oldest first."""
    query = (
        select(stage_changes, models.c.name, models.c.version)
        .join(models, models.c.digest == stage_changes.c.model_digest)
        .order_by(stage_changes.c.id)
    )
    if digest is not None:
        query = query.where(stage_changes.c.model_digest == digest)
    return [
        StageEntry(
            row.model_digest, f"{row.name}@{row.version}", row.stage, row.cause, row.changed_by, row.changed_at, row.why
        )
        for row in connection.execute(query)
    ]


def promote_model(connection: Connection, model: NewModel, request: Request) -> Turnover:
    """Put a model in production; the production model before becomes a candidate again.

    Raises:
        WrongStage: the model is retired.
        DatabaseError: its name and version are stored with another digest.
    """
    _wait_for_others(connection)
    register_model(connection, model)
    refuse_retired(connection, model.digest)
    return _put_in_production(connection, model.digest, StageCause.PROMOTED, request)


def roll_back(connection: Connection, request: Request, shipped: NewModel | None = None) -> Turnover:
    """Put the previous production model back in production.

    The previous model is the one that the present one replaced; repeated calls go further back. Retired models are
    skipped. Where no model was before, the one that ships takes its place.

    Args:
        connection: in a transaction.
        request: who asks.
        shipped: the bundle that ships; None if it cannot be read.

    Raises:
        WrongStage: there is no previous production model, and none that ships.
    """
    _wait_for_others(connection)
    present = find_production(connection)
    if present is None:
        raise WrongStage(
            "there is no production model to roll back from: choose one with `nightread models promote NAME@VERSION`"
        )
    if _is_done(connection, request):
        return Turnover(present, None)
    earlier = find_predecessor(list_stage_changes(connection))
    if earlier is None and shipped is not None and shipped.digest != present.digest:
        return _restore_shipped(connection, shipped, request, StageCause.ROLLED_BACK)
    if earlier is None:
        raise WrongStage(
            f"there was no production model before {present.reference}: choose one with `nightread models promote "
            "NAME@VERSION` (see `nightread models list`)"
        )
    return _put_in_production(connection, earlier, StageCause.ROLLED_BACK, request)


def put_shipped_back(connection: Connection, shipped: NewModel, request: Request) -> Turnover:
    """Put the bundle that ships in production, even a retired one; a rollback then leads to the model before it."""
    _wait_for_others(connection)
    return _restore_shipped(connection, shipped, request, StageCause.PROMOTED)


def _restore_shipped(connection: Connection, shipped: NewModel, request: Request, cause: StageCause) -> Turnover:
    register_model(connection, shipped)
    restore_model(connection, shipped.digest, request)
    return _put_in_production(connection, shipped.digest, cause, request)


def find_predecessor(changes: list[StageEntry]) -> str | None:
    """Return the digest of the model that a rollback leads to.

    Args:
        changes: all stage changes, oldest first.
    """
    line: list[str] = []  # production models in order of succession, the present one last
    for change in changes:
        if change.cause is StageCause.PROMOTED:
            line.append(change.digest)
        elif change.cause is StageCause.ROLLED_BACK:
            while line and line[-1] != change.digest:
                line.pop()
        elif change.cause is StageCause.RETIRED:
            line = [digest for digest in line if digest != change.digest]
    return next((digest for digest in reversed(line[:-1]) if digest != line[-1]), None)


def retire_model(connection: Connection, digest: str, request: Request) -> bool:
    """Retire a model: it takes no new runs; its predictions stay, and its open runs may be finished.

    Returns:
        Whether anything changed.

    Raises:
        WrongStage: it is in production.
    """
    row = _lock_model(connection, digest)
    if row.stage is ModelStage.PRODUCTION:
        raise WrongStage(
            f"{row.name}@{row.version} is in production: promote another first, then retire it "
            "(`nightread models promote NAME@VERSION`, or `nightread models rollback`)"
        )
    if row.stage is ModelStage.RETIRED:
        return False
    _change(connection, digest, ModelStage.RETIRED, StageCause.RETIRED, request)
    return True


def restore_model(connection: Connection, digest: str, request: Request) -> bool:
    """Make a retired model a candidate again; returns whether anything changed."""
    if _lock_model(connection, digest).stage is not ModelStage.RETIRED:
        return False
    _change(connection, digest, ModelStage.CANDIDATE, StageCause.RESTORED, request)
    return True


def _put_in_production(connection: Connection, digest: str, cause: StageCause, request: Request) -> Turnover:
    present = find_production(connection)
    if present is not None and present.digest == digest:
        return Turnover(present, None)
    if present is not None:
        _change(connection, present.digest, ModelStage.CANDIDATE, StageCause.REPLACED, request)
        failpoint(Point.PROMOTE_IN_TRANSACTION)
    _change(connection, digest, ModelStage.PRODUCTION, cause, request)
    return Turnover(_to_model(connection.execute(select(models).where(models.c.digest == digest)).one()), present)


def _change(connection: Connection, digest: str, stage: ModelStage, cause: StageCause, request: Request) -> None:
    connection.execute(update(models).where(models.c.digest == digest).values(stage=stage))
    connection.execute(
        insert(stage_changes).values(
            request=request.id, model_digest=digest, stage=stage, cause=cause, changed_by=request.changed_by[:200],
            changed_at=database_now(), why=(request.why[:500] or None) if stage is ModelStage.PRODUCTION else None,
        )
    )  # fmt: skip


def _is_done(connection: Connection, request: Request) -> bool:
    """Return whether this request was committed before, although the database's answer was lost."""
    query = select(stage_changes.c.id).where(stage_changes.c.request == request.id).limit(1)
    return connection.execute(query).scalar() is not None


def _wait_for_others(connection: Connection) -> None:
    """Serialise stage changes until the transaction ends."""
    wait_for_advisory_lock(connection, _STAGE_LOCK)


def _lock_model(connection: Connection, digest: str) -> Row[Any]:
    _wait_for_others(connection)
    return connection.execute(select(models).where(models.c.digest == digest).with_for_update()).one()


def _to_model(row: Row[Any]) -> StoredModel:
    return StoredModel(row.digest, row.name, row.version, row.preprocessing, row.card, row.stage, row.created_at)


def read_card(connection: Connection, model_digest: str) -> dict[str, Any]:
    """Return a model's stored card; another release may have written it."""
    card: dict[str, Any] = connection.execute(select(models.c.card).where(models.c.digest == model_digest)).scalar_one()
    return card
