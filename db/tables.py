"""The tables. What they promise is written into them: keys, checks and comments."""

from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.types import JobStatus, ModelStage, RunStatus, ScanStatus, StageCause, UtcDateTime, enum_by_value

_DIGEST = String(64)
_ID = String(32)
#: Characters that a reason's text may have.
REASON_TEXT_LENGTH = 300
#: Characters that a run's name may have.
RUN_NAME_LENGTH = 200


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can find it again."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's way to say it
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[float]: JSON(none_as_null=True),
        RunStatus: enum_by_value(RunStatus, "status"),
        JobStatus: enum_by_value(JobStatus, "status"),
        ScanStatus: enum_by_value(ScanStatus, "status"),
        ModelStage: enum_by_value(ModelStage, "stage"),
        StageCause: enum_by_value(StageCause, "cause"),
    }


class Model(Base):
    """A model bundle that has scored, or may score."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        # One production model at most, whoever promotes and however many do so at once.
        Index(
            "uq_models_production", "stage", unique=True,
            postgresql_where=text("stage = 'production'"), sqlite_where=text("stage = 'production'"),
        ),
    )  # fmt: skip

    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True, comment="SHA-256 over model and card")
    name: Mapped[str] = mapped_column(String(64), comment="bundle name")
    version: Mapped[str] = mapped_column(
        String(64), comment="bundle version; with its name it never changes its digest"
    )
    preprocessing: Mapped[str] = mapped_column(String(16), comment="preprocessing version that it was trained with")
    card: Mapped[dict[str, Any]] = mapped_column(comment="the bundle's card")
    stage: Mapped[ModelStage] = mapped_column(comment="candidate, production or retired")
    created_at: Mapped[datetime] = mapped_column(comment="first seen by this database, UTC")


class StageChange(Base):
    """One step in the life of a model bundle, for rollback and for whoever asks later; rows are never changed."""

    __tablename__ = "stage_changes"
    __table_args__ = (Index(None, "request"),)

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, comment="in the order of the changes"
    )
    request: Mapped[str] = mapped_column(_ID, comment="random; one command's changes share it")
    model_digest: Mapped[str] = mapped_column(ForeignKey("models.digest"))
    stage: Mapped[ModelStage] = mapped_column(comment="the stage that it took")
    cause: Mapped[StageCause] = mapped_column(comment="promoted, replaced, rolled-back, retired or restored")
    changed_by: Mapped[str] = mapped_column(String(200), comment="user@host of the command")
    changed_at: Mapped[datetime] = mapped_column(comment="UTC")


class Run(Base):
    """One request: one model over a set of paths."""

    __tablename__ = "runs"
    __table_args__ = (
        Index(None, "created_at"),
        # Whoever closes runs or looks for orphans must not look at every night that ever was.
        Index(
            "ix_runs_open", "id",
            postgresql_where=text("status IN ('queued', 'running')"),
            sqlite_where=text("status IN ('queued', 'running')"),
        ),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(_ID, primary_key=True, comment="random, 32 hexadecimal digits")
    name: Mapped[str] = mapped_column(String(RUN_NAME_LENGTH), index=True, comment="for people; need not be unique")
    model_digest: Mapped[str] = mapped_column(ForeignKey("models.digest"), comment="the model of the whole run")
    sources: Mapped[list[str]] = mapped_column(comment="the paths that were asked for, resolved")
    settings: Mapped[dict[str, Any]] = mapped_column(comment="what the run was started with")
    embedded: Mapped[bool] = mapped_column(comment="scored by the process that made it; no other may take its jobs")
    skipped: Mapped[dict[str, Any]] = mapped_column(comment="entries that are plainly no scan, counted by reason")
    found: Mapped[int] = mapped_column(Integer, comment="scans of this run, whatever became of them")
    status: Mapped[RunStatus] = mapped_column(comment="queued, running, finished or cancelled")
    created_at: Mapped[datetime] = mapped_column(comment="UTC")
    finished_at: Mapped[datetime | None] = mapped_column(comment="when the last scan became terminal, UTC")


class Job(Base):
    """One queued slice of a run's scans; the row is the truth, its Celery message only a hint."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "(status = 'leased') = (lease_holder IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name="lease_when_leased",
        ),
        # What the sweeper looks at: open jobs alone, of which there are few among the many that are done.
        Index(
            "ix_jobs_open", "created_at", "id",
            postgresql_where=text("status <> 'done'"), sqlite_where=text("status <> 'done'"),
        ),
        # The same of one run: is it at its end, and what of it is due?
        Index(
            "ix_jobs_open_of_run", "run_id", "created_at", "id",
            postgresql_where=text("status <> 'done'"), sqlite_where=text("status <> 'done'"),
        ),
        Index("ix_jobs_crashed", "id", postgresql_where=text("crashes > 0"), sqlite_where=text("crashes > 0")),
        Index(None, "run_id", "status"),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(
        _ID, primary_key=True, comment="random, 32 hexadecimal digits; all that a message carries"
    )
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    status: Mapped[JobStatus] = mapped_column(comment="queued, leased or done")
    attempts: Mapped[int] = mapped_column(Integer, comment="how often it was claimed")
    crashes: Mapped[int] = mapped_column(Integer, comment="how often a lease ran out, that is, a worker died or hung")
    lease_holder: Mapped[str | None] = mapped_column(String(200), comment="the worker that holds it")
    lease_token: Mapped[int] = mapped_column(
        BigInteger, comment="fencing token: one more at each claim or cancellation"
    )
    lease_expires_at: Mapped[datetime | None] = mapped_column(comment="by the database's clock, UTC")
    not_before: Mapped[datetime | None] = mapped_column(comment="back-off after a transient fault, UTC")
    published_at: Mapped[datetime | None] = mapped_column(comment="last time a message was sent for it, UTC")
    created_at: Mapped[datetime] = mapped_column(comment="UTC")
    finished_at: Mapped[datetime | None] = mapped_column(comment="UTC")


class Scan(Base):
    """One file of a run, from `queued` to exactly one terminal status."""

    __tablename__ = "scans"
    __table_args__ = (
        UniqueConstraint("run_id", "path"),
        CheckConstraint(
            "(status = 'queued' AND reason_code IS NULL AND finished_at IS NULL AND job_id IS NOT NULL)"
            " OR (status = 'scored' AND reason_code IS NULL AND finished_at IS NOT NULL AND sha256 IS NOT NULL)"
            " OR (status IN ('rejected', 'failed') AND reason_code IS NOT NULL AND finished_at IS NOT NULL)",
            name="one_terminal_status",
        ),
        CheckConstraint("(reason_code IS NULL) = (reason_text IS NULL)", name="reason_has_text"),
        # Counts of a run from this index alone, and the scans of one status in the order of finding.
        Index(None, "run_id", "status", "reused", "id"),
        # All scans of a run in the order of finding, without sorting.
        Index(None, "run_id", "id"),
        Index(None, "job_id", "status"),
        Index(None, "sha256"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), comment="null where no job was needed to end it")
    path: Mapped[str] = mapped_column(Text, comment=r"absolute; bytes that are no UTF-8 as \xNN, a backslash as two")
    size_bytes: Mapped[int] = mapped_column(BigInteger, comment="as listed")
    sha256: Mapped[str | None] = mapped_column(_DIGEST, comment="of the bytes that were decoded")
    status: Mapped[ScanStatus] = mapped_column(comment="queued, scored, rejected or failed")
    reason_code: Mapped[str | None] = mapped_column(String(32), comment="from a closed list")
    reason_text: Mapped[str | None] = mapped_column(
        String(REASON_TEXT_LENGTH), comment="for people; holds no path and no patient data"
    )
    attempts: Mapped[int] = mapped_column(Integer, comment="how often its job was claimed while it was open")
    study_uid: Mapped[str | None] = mapped_column(String(64), comment="DICOM (0020,000D)")
    series_uid: Mapped[str | None] = mapped_column(String(64), comment="DICOM (0020,000E)")
    instance_uid: Mapped[str | None] = mapped_column(String(64), comment="DICOM (0008,0018)")
    reused: Mapped[bool] = mapped_column(comment="scored before: the prediction was there already")
    created_at: Mapped[datetime] = mapped_column(comment="UTC")
    finished_at: Mapped[datetime | None] = mapped_column(comment="when it became terminal, UTC")


class Prediction(Base):
    """One stored score: scan content x model x label. Written once, never changed."""

    __tablename__ = "predictions"
    __table_args__ = (
        PrimaryKeyConstraint("sha256", "model_digest", "preprocessing", "label"),
        CheckConstraint("score >= 0 AND score <= 1", name="score_in_range"),
    )

    sha256: Mapped[str] = mapped_column(_DIGEST, comment="of the scan's bytes")
    model_digest: Mapped[str] = mapped_column(ForeignKey("models.digest"))
    preprocessing: Mapped[str] = mapped_column(String(16), comment="preprocessing version")
    label: Mapped[str] = mapped_column(String(64), comment="from the card")
    score: Mapped[float] = mapped_column(Double, comment="the model's output for the label, in [0, 1], not rounded")
    decision: Mapped[str] = mapped_column(String(64), comment="what the card's thresholds make of the score")
    runtime: Mapped[str] = mapped_column(String(64), comment="inference runtime and its version")
    provider: Mapped[str] = mapped_column(String(64), comment="execution provider that was really used")
    device: Mapped[str] = mapped_column(String(64), comment="cpu or cuda")
    batch_size: Mapped[int] = mapped_column(Integer, comment="scans in the session.run() that scored it")
    worker: Mapped[str] = mapped_column(String(200), comment="the worker that scored it")
    created_at: Mapped[datetime] = mapped_column(comment="UTC")


class Measurement(Base):
    """What a scan's prepared pixels and its embedding measure: scan content x model. Written once, never changed."""

    __tablename__ = "measurements"
    __table_args__ = (
        PrimaryKeyConstraint("sha256", "model_digest", "preprocessing"),
        CheckConstraint("distance >= 0", name="distance_not_negative"),
    )

    sha256: Mapped[str] = mapped_column(_DIGEST, comment="of the scan's bytes")
    model_digest: Mapped[str] = mapped_column(ForeignKey("models.digest"))
    preprocessing: Mapped[str] = mapped_column(String(16), comment="preprocessing version")
    gate_verdict: Mapped[str | None] = mapped_column(
        String(32),
        comment="passed, or the reason for which the input gate rejects it, on or off; null: the card has no gate",
    )
    distance: Mapped[float | None] = mapped_column(
        Double, comment="of its embedding from the training scans'; null where it was not inferred"
    )
    components: Mapped[list[float] | None] = mapped_column(
        comment="the first principal components of its embedding; null where it was not inferred"
    )
    brightness: Mapped[float] = mapped_column(Double, comment="mean gray, 0 black, 1 white")
    contrast: Mapped[float] = mapped_column(Double, comment="standard deviation of the gray")
    darkest: Mapped[float] = mapped_column(Double, comment="gray below which 5 % of the scan lies")
    brightest: Mapped[float] = mapped_column(Double, comment="gray above which 5 % of the scan lies")
    detail: Mapped[float] = mapped_column(Double, comment="mean step of the gray between neighbouring places")
    symmetry: Mapped[float] = mapped_column(Double, comment="correlation of the scan with its mirror image")
    created_at: Mapped[datetime] = mapped_column(comment="UTC")


class Tally(Base):
    """One count of a run, kept beside it in the transactions that change it; read as the sum over the slots."""

    __tablename__ = "tallies"
    __table_args__ = (PrimaryKeyConstraint("run_id", "slot", "kind", "name"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    slot: Mapped[int] = mapped_column(
        SmallInteger,
        comment="one of a few that workers add to, so that they seldom wait for each other; the count is the sum",
    )
    kind: Mapped[str] = mapped_column(
        String(16), comment="found, scored, rejected or failed scans; label, decision or provider of their rows"
    )
    name: Mapped[str] = mapped_column(String(64), comment="the reason code, label, decision or provider; or reused")
    count: Mapped[int] = mapped_column(BigInteger, comment="may be negative in one slot")
    changed_at: Mapped[datetime] = mapped_column(comment="when something was last added by this slot, UTC")


class WorklistRow(Base):
    """One label of a scored scan of a run, where its score puts it; written with the scan's status.

    The scores lie with the contents, in `predictions`, and the scans with the runs: no index over both can be had.
    No foreign keys, which would be looked up again for each row: it comes from a statement over the tables themselves.
    """

    __tablename__ = "worklist_rows"
    __table_args__ = (
        PrimaryKeyConstraint("run_id", "label", "decision", "minus_score", "scan_id"),
        {"sqlite_with_rowid": False},
    )

    run_id: Mapped[str] = mapped_column(_ID)
    label: Mapped[str] = mapped_column(String(64), comment="as in predictions")
    decision: Mapped[str] = mapped_column(String(64), comment="as in predictions")
    minus_score: Mapped[float] = mapped_column(
        Double, comment="the negated score, so that the highest comes first in an ascending key"
    )
    scan_id: Mapped[int] = mapped_column(BigInteger, comment="scans.id")


models: Table = Model.__table__  # type: ignore[assignment]  # declared as FromClause, is a Table
stage_changes: Table = StageChange.__table__  # type: ignore[assignment]
runs: Table = Run.__table__  # type: ignore[assignment]
jobs: Table = Job.__table__  # type: ignore[assignment]
scans: Table = Scan.__table__  # type: ignore[assignment]
predictions: Table = Prediction.__table__  # type: ignore[assignment]
measurements: Table = Measurement.__table__  # type: ignore[assignment]
tallies: Table = Tally.__table__  # type: ignore[assignment]
worklist_rows: Table = WorklistRow.__table__  # type: ignore[assignment]

#: The view `results`, as the migrations create it; for queries only, so it stays out of the tables' metadata.
results = sqlalchemy.table(
    "results",
    *(
        sqlalchemy.column(name, kind)
        for name, kind in (
            ("scan_id", BigInteger()), ("run_id", _ID), ("run", String()), ("path", Text()), ("study", String()),
            ("label", String()), ("score", Double()), ("decision", String()), ("status", Scan.__table__.c.status.type),
            ("reason", String()), ("reason_text", String()), ("model", String()), ("sha256", _DIGEST),
            ("reused", Boolean()), ("provider", String()), ("time", UtcDateTime()),
        )
    ),
)  # fmt: skip
