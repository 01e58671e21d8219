"""The tables, with their keys, checks and comments.

They use SQLAlchemy Core: nothing maps rows to objects, and importing the ORM takes 0.2 s of each start. Partial indexes
are declared in `db.migrations.partial_indexes`.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
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
)

from db.columns import DIGEST, ID, SERIAL, TIME, column
from db.types import (
    JobStatus,
    ModelStage,
    NightStatus,
    Priority,
    RunStatus,
    ScanStatus,
    StageCause,
    enum_by_value,
)

#: Maximum length of a reason's text, in characters.
REASON_TEXT_LENGTH = 300
#: Maximum length of a run's name, in characters.
RUN_NAME_LENGTH = 200
#: Maximum length of a run's idempotency key, in characters.
RUN_KEY_LENGTH = 200
#: Maximum length of a schedule's name, in characters.
SCHEDULE_NAME_LENGTH = 64

#: Stages of a job, in the order in which a scan passes through them; each has a column of `jobs`, with `_s`.
STAGES = ("read", "hash", "decode", "prepare", "infer", "commit")

#: Names every constraint, so that migrations can refer to it.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: A model bundle that has scored, or may score.
models = Table(
    "models",
    metadata,
    column("digest", DIGEST, primary_key=True, comment="SHA-256 over model and card"),
    column("name", String(64), comment="bundle name"),
    column("version", String(64), comment="bundle version; with its name it never changes its digest"),
    column("preprocessing", String(16), comment="preprocessing version that it was trained with"),
    column("card", JSON(), comment="the bundle's card"),
    column("stage", enum_by_value(ModelStage, "stage"), comment="candidate, production or retired"),
    column("created_at", TIME, comment="first seen by this database, UTC"),
    UniqueConstraint("name", "version"),
)

#: One change of a model bundle's stage, for rollback and audit; rows are never changed.
stage_changes = Table(
    "stage_changes",
    metadata,
    column("id", SERIAL, primary_key=True, comment="in the order of the changes"),
    column("request", ID, comment="random; one command's changes share it"),
    column("model_digest", ForeignKey("models.digest")),
    column("stage", enum_by_value(ModelStage, "stage"), comment="the stage that it took"),
    column("cause", enum_by_value(StageCause, "cause"), comment="promoted, replaced, rolled-back, retired or restored"),
    column("changed_by", String(200), comment="user@host of the command"),
    column("changed_at", TIME, comment="UTC"),
    column("why", String(500), nullable=True, comment="reason of a promotion in spite of its figures; null: none"),
    Index(None, "request"),
)

#: One request: one model over a set of paths.
runs = Table(
    "runs",
    metadata,
    column("id", ID, primary_key=True, comment="random, 32 hexadecimal digits"),
    column("name", String(RUN_NAME_LENGTH), index=True, comment="for people; need not be unique"),
    column("model_digest", ForeignKey("models.digest"), comment="the model of the whole run"),
    column("sources", JSON(), comment="the paths that were asked for, resolved"),
    column("settings", JSON(), comment="what the run was started with"),
    column("embedded", Boolean(), comment="scored by the process that made it; no other may take its jobs"),
    column("host", String(200), nullable=True, comment="of an embedded run: the machine of its process"),
    column("pid", Integer(), nullable=True, comment="of an embedded run: its process"),
    column(
        "process_started",
        String(32),
        nullable=True,
        comment="of an embedded run: when its process was started, in ticks since boot; a process id is used again",
    ),
    column("skipped", JSON(), comment="entries that are plainly no scan, counted by reason"),
    column("found", Integer(), comment="scans of this run, whatever became of them"),
    column("pruned", Integer(), nullable=True, comment="scans that `prune` has deleted; null: none"),
    column("status", enum_by_value(RunStatus, "status"), comment="queued, running, finished or cancelled"),
    column("created_at", TIME, comment="UTC"),
    column("finished_at", TIME, nullable=True, comment="when the last scan became terminal, UTC"),
    column(
        "priority",
        enum_by_value(Priority, "priority"),
        server_default=Priority.NORMAL.value,
        comment="urgent, normal or bulk: whose jobs go first",
    ),
    column(
        "key",
        String(RUN_KEY_LENGTH),
        nullable=True,
        comment="idempotency key: a request that is repeated with it gets this run",
    ),
    column("schedule", String(SCHEDULE_NAME_LENGTH), nullable=True, comment="name of the schedule that made it"),
    column("night", String(32), nullable=True, comment="of a schedule: the day on whose evening the night began"),
    column(
        "guards",
        JSON(none_as_null=True),
        nullable=True,
        comment="limits by which it is judged when it ends; null: it is not judged",
    ),
    column(
        "guard",
        String(32),
        nullable=True,
        comment="passed, or the code of the guard that tripped; null: not judged yet",
    ),
    column(
        "guard_text", String(REASON_TEXT_LENGTH), nullable=True, comment="why it tripped, for people; holds no path"
    ),
    column("notified_at", TIME, nullable=True, comment="when somebody was told of its end, UTC"),
    column(
        "sending",
        String(16),
        nullable=True,
        comment="of a schedule that sends: sent, held or dead; null: still to be sent, or nothing is",
    ),
    column(
        "sending_not_before",
        TIME,
        nullable=True,
        comment="claim or back-off: no other process sends it until then, UTC",
    ),
    column("counted_at", TIME, nullable=True, comment="its end at which folder_counts were made; null: not yet"),
    column("counted_found", Integer(), nullable=True, comment="found at that time; null: it has too many folders"),
    Index(None, "created_at"),
    Index(None, "schedule", "night"),
    Index("uq_runs_key", "key", unique=True),
)

#: What is enqueued night after night, and when.
schedules = Table(
    "schedules",
    metadata,
    column("name", String(SCHEDULE_NAME_LENGTH), primary_key=True, comment="for people; part of its runs' keys"),
    column("folders", JSON(), comment="paths; %Y, %m, %d and the like stand for the night's date"),
    column("at_time", String(5), nullable=True, comment="HH:MM, once each night, by the clocks of its time zone"),
    column("every_s", Integer(), nullable=True, comment="seconds between two runs, instead of at_time"),
    column("timezone", String(64), comment="IANA name"),
    column("options", JSON(), comment="model, priority, intake and guards of its runs"),
    column("created_by", String(200), comment="user@host of the command"),
    column("created_at", TIME, comment="UTC; no night that was due before is missed"),
    CheckConstraint("(at_time IS NULL) <> (every_s IS NULL)", name="one_rhythm"),
)

#: One night of a schedule; its key is why each night is started at most once.
schedule_nights = Table(
    "schedule_nights",
    metadata,
    column("schedule", ForeignKey("schedules.name", ondelete="CASCADE"), comment="its name"),
    column("night", String(32), comment="the day on whose evening the night began; with every_s the time it was due"),
    column("due_at", TIME, comment="UTC"),
    column("status", enum_by_value(NightStatus, "status"), comment="starting, started, empty, failed or missed"),
    column("run_id", ID, nullable=True, comment="its run, where it has one"),
    column("message", String(REASON_TEXT_LENGTH), nullable=True, comment="why it is failed or missed, for people"),
    column("attempts", Integer(), comment="how often a process began to start it"),
    column("holder", String(200), nullable=True, comment="the process that starts it"),
    column("not_before", TIME, nullable=True, comment="until then no other process starts it, UTC"),
    column("changed_at", TIME, comment="UTC"),
    PrimaryKeyConstraint("schedule", "night"),
    Index(None, "schedule", "due_at"),
)

#: One queued slice of a run's scans; the row is authoritative, its Celery message only a hint.
jobs = Table(
    "jobs",
    metadata,
    column("id", ID, primary_key=True, comment="random, 32 hexadecimal digits; all that a message carries"),
    column("run_id", ForeignKey("runs.id")),
    column("status", enum_by_value(JobStatus, "status"), comment="queued, leased or done"),
    column("attempts", Integer(), comment="how often it was claimed"),
    column("crashes", Integer(), comment="how often a lease ran out, that is, a worker died or hung"),
    column("lease_holder", String(200), nullable=True, comment="the worker that holds it"),
    column("lease_token", BigInteger(), comment="fencing token: one more at each claim or cancellation"),
    column("lease_expires_at", TIME, nullable=True, comment="by the database's clock, UTC"),
    column("not_before", TIME, nullable=True, comment="back-off after a transient fault, UTC"),
    column("published_at", TIME, nullable=True, comment="last time a message was sent for it, UTC"),
    column("created_at", TIME, comment="UTC"),
    column("finished_at", TIME, nullable=True, comment="UTC"),
    *(
        column(f"{stage}_s", Double(), nullable=True, comment="seconds in this stage, of all threads together")
        for stage in STAGES
    ),
    column("batches", Integer(), nullable=True, comment="calls of the model, without the gate's second looks"),
    column("batched_scans", Integer(), nullable=True, comment="scans in them"),
    CheckConstraint(
        "(status = 'leased') = (lease_holder IS NOT NULL AND lease_expires_at IS NOT NULL)",
        name="lease_when_leased",
    ),
    Index(None, "run_id", "status"),
)

#: One file of a run, from `queued` to exactly one terminal status.
scans = Table(
    "scans",
    metadata,
    column("id", SERIAL, primary_key=True),
    column("run_id", ForeignKey("runs.id")),
    column("job_id", ForeignKey("jobs.id"), nullable=True, comment="null where no job was needed to end it"),
    column("path", Text(), comment=r"absolute; bytes that are no UTF-8 as \xNN, a backslash as two"),
    column("size_bytes", BigInteger(), comment="as listed"),
    column(
        "modified_ns", BigInteger(), nullable=True, comment="when it was last written, as listed; ns since 1970, UTC"
    ),
    column("sha256", DIGEST, nullable=True, comment="of the bytes that were decoded"),
    column("status", enum_by_value(ScanStatus, "status"), comment="queued, scored, rejected or failed"),
    column("reason_code", String(32), nullable=True, comment="from a closed list"),
    column(
        "reason_text",
        String(REASON_TEXT_LENGTH),
        nullable=True,
        comment="for people; holds no path and no patient data",
    ),
    column("attempts", Integer(), comment="how often its job was claimed while it was open"),
    column("study_uid", String(64), nullable=True, comment="DICOM (0020,000D)"),
    column("series_uid", String(64), nullable=True, comment="DICOM (0020,000E)"),
    column("instance_uid", String(64), nullable=True, comment="DICOM (0008,0018)"),
    column("body_part", String(16), nullable=True, comment="DICOM (0018,0015)"),
    column("view_position", String(16), nullable=True, comment="DICOM (0018,5101), or the short form of (0054,0220)"),
    column("laterality", String(1), nullable=True, comment="DICOM (0020,0062) or (0020,0060): R, L, U or B"),
    column(
        "acquired_at",
        DateTime(),
        nullable=True,
        comment="DICOM (0008,002A) or (0008,0022) with (0008,0032), local",
    ),
    column("manufacturer", String(64), nullable=True, comment="DICOM (0008,0070)"),
    column("station", String(16), nullable=True, comment="DICOM (0008,1010)"),
    column(
        "accession_hash",
        DIGEST,
        nullable=True,
        comment="HMAC-SHA256 of DICOM (0008,0050) with NIGHTREAD_ACCESSION_KEY; null without that key",
    ),
    column(
        "brightness_rule", String(16), nullable=True, comment="how black and white were determined; null: not decoded"
    ),
    column(
        "contradictions",
        String(200),
        nullable=True,
        comment="contradictions of its attributes, codes separated by spaces; null: none",
    ),
    column("reused", Boolean(), comment="scored before: the prediction was there already"),
    column("created_at", TIME, comment="UTC"),
    column("finished_at", TIME, nullable=True, comment="when it became terminal, UTC"),
    CheckConstraint(
        "(status = 'queued' AND reason_code IS NULL AND finished_at IS NULL AND job_id IS NOT NULL)"
        " OR (status = 'scored' AND reason_code IS NULL AND finished_at IS NOT NULL AND sha256 IS NOT NULL)"
        " OR (status IN ('rejected', 'failed') AND reason_code IS NOT NULL AND finished_at IS NOT NULL)",
        name="one_terminal_status",
    ),
    CheckConstraint("(reason_code IS NULL) = (reason_text IS NULL)", name="reason_has_text"),
    # Covers the counts of a run, and its scans of one status in the order they were found.
    Index(None, "run_id", "status", "reused", "id"),
    # All scans of a run in the order they were found, without sorting.
    Index(None, "run_id", "id"),
    Index(None, "job_id", "status"),
    Index(None, "sha256"),
    # The rows of some hours over all runs, and the failed ones among them.
    Index(None, "finished_at", "status"),
)

#: One stored score: scan content x model x label. Written once, never changed.
predictions = Table(
    "predictions",
    metadata,
    column("sha256", DIGEST, comment="of the scan's bytes"),
    column("model_digest", ForeignKey("models.digest")),
    column("preprocessing", String(16), comment="preprocessing version"),
    column("label", String(64), comment="from the card"),
    column("score", Double(), comment="the model's output for the label, in [0, 1], not rounded"),
    column("decision", String(64), comment="what the card's thresholds make of the score"),
    column("runtime", String(64), comment="inference runtime and its version"),
    column("provider", String(64), comment="execution provider that was really used"),
    column("device", String(64), comment="cpu or cuda"),
    column("batch_size", Integer(), comment="scans in the session.run() that scored it"),
    column("worker", String(200), comment="the worker that scored it"),
    column("created_at", TIME, comment="UTC"),
    PrimaryKeyConstraint("sha256", "model_digest", "preprocessing", "label"),
    CheckConstraint("score >= 0 AND score <= 1", name="score_in_range"),
)

#: Measurements of a scan's prepared pixels and embedding: scan content x model. Written once, never changed.
measurements = Table(
    "measurements",
    metadata,
    column("sha256", DIGEST, comment="of the scan's bytes"),
    column("model_digest", ForeignKey("models.digest")),
    column("preprocessing", String(16), comment="preprocessing version"),
    column(
        "gate_verdict",
        String(32),
        nullable=True,
        comment="passed, or the reason for which the input gate rejects it, on or off; null: the card has no gate",
    ),
    column(
        "distance",
        Double(),
        nullable=True,
        comment="of its embedding from the training scans'; null where it was not inferred",
    ),
    column(
        "components",
        JSON(none_as_null=True),
        nullable=True,
        comment="the first principal components of its embedding; null where it was not inferred",
    ),
    column("brightness", Double(), comment="mean gray, 0 black, 1 white"),
    column("contrast", Double(), comment="standard deviation of the gray"),
    column("darkest", Double(), comment="gray below which 5 % of the scan lies"),
    column("brightest", Double(), comment="gray above which 5 % of the scan lies"),
    column("detail", Double(), comment="mean step of the gray between neighbouring places"),
    column("symmetry", Double(), comment="correlation of the scan with its mirror image"),
    column("created_at", TIME, comment="UTC"),
    PrimaryKeyConstraint("sha256", "model_digest", "preprocessing"),
    CheckConstraint("distance >= 0", name="distance_not_negative"),
)

#: One count of a run, updated in the transactions that change its scans; its value is the sum over the slots.
tallies = Table(
    "tallies",
    metadata,
    column("run_id", ForeignKey("runs.id", ondelete="CASCADE")),
    column(
        "slot",
        SmallInteger(),
        comment="one of a few that workers add to, so that they seldom wait for each other; the count is the sum",
    ),
    column(
        "kind", String(16), comment="found, scored, rejected or failed scans; label, decision or provider of their rows"
    ),
    column("name", String(64), comment="the reason code, label, decision or provider; or reused"),
    column("count", BigInteger(), comment="may be negative in one slot"),
    column("changed_at", TIME, comment="when something was last added by this slot, UTC"),
    PrimaryKeyConstraint("run_id", "slot", "kind", "name"),
)

#: One label of a scored scan of a run, keyed in the order of the worklist; written with the scan's status.
#:
#: Scores belong to contents (`predictions`) and scans to runs, so that no index can cover both; this table can.
#: Of its keys only the run is a foreign key, so that the rows go with their run, whoever deletes it.
worklist_rows = Table(
    "worklist_rows",
    metadata,
    column("run_id", ForeignKey("runs.id", ondelete="CASCADE")),
    column("label", String(64), comment="as in predictions"),
    column("decision", String(64), comment="as in predictions"),
    column("minus_score", Double(), comment="the negated score, so that the highest comes first in an ascending key"),
    column("scan_id", BigInteger(), comment="scans.id"),
    PrimaryKeyConstraint("run_id", "label", "decision", "minus_score", "scan_id"),
    # The view `results` joins by it.
    Index("ix_worklist_rows_scan_id_label", "scan_id", "label").ddl_if(dialect="sqlite"),
    Index("ix_worklist_rows_scan_id_run_id", "scan_id", "run_id").ddl_if(dialect="postgresql"),
    sqlite_with_rowid=False,
)
