"""The tables of the first release

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: What users query. One row a label of each scored scan, and one row for each scan without a score.
RESULTS_VIEW = """\
CREATE VIEW results AS
SELECT
    scans.id AS scan_id,
    runs.id AS run_id,
    runs.name AS run,
    scans.path AS path,
    scans.study_uid AS study,
    predictions.label AS label,
    predictions.score AS score,
    predictions.decision AS decision,
    scans.status AS status,
    scans.reason_code AS reason,
    scans.reason_text AS reason_text,
    models.name || '@' || models.version AS model,
    scans.sha256 AS sha256,
    scans.reused AS reused,
    predictions.provider AS provider,
    scans.finished_at AS time
FROM scans
JOIN runs ON runs.id = scans.run_id
JOIN models ON models.digest = runs.model_digest
LEFT JOIN predictions
    ON scans.status = 'scored'
    AND predictions.sha256 = scans.sha256
    AND predictions.model_digest = runs.model_digest
    AND predictions.preprocessing = models.preprocessing
"""


def upgrade() -> None:
    """Move the schema to this revision."""
    op.create_table(
        "models",
        sa.Column("digest", sa.String(length=64), nullable=False, comment="SHA-256 over model and card"),
        sa.Column("name", sa.String(length=64), nullable=False, comment="bundle name"),
        sa.Column(
            "version",
            sa.String(length=64),
            nullable=False,
            comment="bundle version; with its name it never changes its digest",
        ),
        sa.Column(
            "preprocessing",
            sa.String(length=16),
            nullable=False,
            comment="preprocessing version that it was trained with",
        ),
        sa.Column("card", sa.JSON(), nullable=False, comment="the bundle's card"),
        sa.Column(
            "stage",
            sa.Enum(
                "candidate", "production", "retired", name="stage", native_enum=False, create_constraint=True, length=16
            ),
            nullable=False,
            comment="candidate, production or retired",
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="first seen by this database, UTC"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_models")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_models_name_version")),
    )
    op.create_table(
        "predictions",
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="of the scan's bytes"),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("preprocessing", sa.String(length=16), nullable=False, comment="preprocessing version"),
        sa.Column("label", sa.String(length=64), nullable=False, comment="from the card"),
        sa.Column(
            "score", sa.Double(), nullable=False, comment="the model's output for the label, in [0, 1], not rounded"
        ),
        sa.Column(
            "decision", sa.String(length=64), nullable=False, comment="what the card's thresholds make of the score"
        ),
        sa.Column("runtime", sa.String(length=64), nullable=False, comment="inference runtime and its version"),
        sa.Column("provider", sa.String(length=64), nullable=False, comment="execution provider that was really used"),
        sa.Column("device", sa.String(length=64), nullable=False, comment="cpu or cuda"),
        sa.Column("batch_size", sa.Integer(), nullable=False, comment="scans in the session.run() that scored it"),
        sa.Column("worker", sa.String(length=200), nullable=False, comment="the worker that scored it"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.CheckConstraint("score >= 0 AND score <= 1", name=op.f("ck_predictions_score_in_range")),
        sa.ForeignKeyConstraint(["model_digest"], ["models.digest"], name=op.f("fk_predictions_model_digest")),
        sa.PrimaryKeyConstraint("sha256", "model_digest", "preprocessing", "label", name=op.f("pk_predictions")),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=32), nullable=False, comment="random, 32 hexadecimal digits"),
        sa.Column("name", sa.String(length=200), nullable=False, comment="for people; need not be unique"),
        sa.Column("model_digest", sa.String(length=64), nullable=False, comment="the model of the whole run"),
        sa.Column("sources", sa.JSON(), nullable=False, comment="the paths that were asked for, resolved"),
        sa.Column("settings", sa.JSON(), nullable=False, comment="what the run was started with"),
        sa.Column(
            "embedded",
            sa.Boolean(),
            nullable=False,
            comment="scored by the process that made it; no other may take its jobs",
        ),
        sa.Column("skipped", sa.JSON(), nullable=False, comment="entries that are plainly no scan, counted by reason"),
        sa.Column("found", sa.Integer(), nullable=False, comment="scans of this run, whatever became of them"),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "running",
                "finished",
                "cancelled",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
            comment="queued, running, finished or cancelled",
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="when the last scan became terminal, UTC"),
        sa.ForeignKeyConstraint(["model_digest"], ["models.digest"], name=op.f("fk_runs_model_digest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(op.f("ix_runs_created_at"), "runs", ["created_at"], unique=False)
    op.create_index(op.f("ix_runs_name"), "runs", ["name"], unique=False)

    op.create_table(
        "jobs",
        sa.Column(
            "id",
            sa.String(length=32),
            nullable=False,
            comment="random, 32 hexadecimal digits; all that a message carries",
        ),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column(
            "status",
            sa.Enum("queued", "leased", "done", name="status", native_enum=False, create_constraint=True, length=16),
            nullable=False,
            comment="queued, leased or done",
        ),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="how often it was claimed"),
        sa.Column(
            "crashes", sa.Integer(), nullable=False, comment="how often a lease ran out, that is, a worker died or hung"
        ),
        sa.Column("lease_holder", sa.String(length=200), nullable=True, comment="the worker that holds it"),
        sa.Column(
            "lease_token",
            sa.BigInteger(),
            nullable=False,
            comment="fencing token: one more at each claim or cancellation",
        ),
        sa.Column("lease_expires_at", UtcDateTime(), nullable=True, comment="by the database's clock, UTC"),
        sa.Column("not_before", UtcDateTime(), nullable=True, comment="back-off after a transient fault, UTC"),
        sa.Column("published_at", UtcDateTime(), nullable=True, comment="last time a message was sent for it, UTC"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="UTC"),
        sa.CheckConstraint(
            "(status = 'leased') = (lease_holder IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name=op.f("ck_jobs_lease_when_leased"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_jobs_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_open",
        "jobs",
        ["created_at", "id"],
        unique=False,
        postgresql_where=sa.text("status <> 'done'"),
        sqlite_where=sa.text("status <> 'done'"),
    )
    op.create_index(op.f("ix_jobs_run_id_status"), "jobs", ["run_id", "status"], unique=False)

    op.create_table(
        "scans",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=True, comment="null where no job was needed to end it"),
        sa.Column(
            "path", sa.Text(), nullable=False, comment="absolute; bytes that are no UTF-8 as \\xNN, a backslash as two"
        ),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, comment="as listed"),
        sa.Column("sha256", sa.String(length=64), nullable=True, comment="of the bytes that were decoded"),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "scored",
                "rejected",
                "failed",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
            comment="queued, scored, rejected or failed",
        ),
        sa.Column("reason_code", sa.String(length=32), nullable=True, comment="from a closed list"),
        sa.Column(
            "reason_text", sa.String(length=300), nullable=True, comment="for people; holds no path and no patient data"
        ),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="how often its job was claimed while it was open"),
        sa.Column("study_uid", sa.String(length=64), nullable=True, comment="DICOM (0020,000D)"),
        sa.Column("series_uid", sa.String(length=64), nullable=True, comment="DICOM (0020,000E)"),
        sa.Column("instance_uid", sa.String(length=64), nullable=True, comment="DICOM (0008,0018)"),
        sa.Column("reused", sa.Boolean(), nullable=False, comment="scored before: the prediction was there already"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="when it became terminal, UTC"),
        sa.CheckConstraint(
            "(status = 'queued' AND reason_code IS NULL AND finished_at IS NULL AND job_id IS NOT NULL)"
            " OR (status = 'scored' AND reason_code IS NULL AND finished_at IS NOT NULL AND sha256 IS NOT NULL)"
            " OR (status IN ('rejected', 'failed') AND reason_code IS NOT NULL AND finished_at IS NOT NULL)",
            name=op.f("ck_scans_one_terminal_status"),
        ),
        sa.CheckConstraint("(reason_code IS NULL) = (reason_text IS NULL)", name=op.f("ck_scans_reason_has_text")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_scans_job_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_scans_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scans")),
        sa.UniqueConstraint("run_id", "path", name=op.f("uq_scans_run_id_path")),
    )
    op.create_index(op.f("ix_scans_job_id_status"), "scans", ["job_id", "status"], unique=False)
    op.create_index(op.f("ix_scans_run_id_status_reused"), "scans", ["run_id", "status", "reused"], unique=False)
    op.create_index(op.f("ix_scans_sha256"), "scans", ["sha256"], unique=False)
    op.execute(RESULTS_VIEW)


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.execute("DROP VIEW results")
    for table in ("scans", "jobs", "runs", "predictions", "models"):
        op.drop_table(table)
