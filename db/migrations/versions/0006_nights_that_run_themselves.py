"""Nights that run themselves: priority, idempotency key and guards of runs; schedules and their nights

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

Rows are not rewritten: a run of the release before is `normal`, has no key and is not judged. Building the index on
`scans` takes about a second for each million of them, during which workers wait with their commits.
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UNJUDGED = sa.text("guard IS NULL AND guards IS NOT NULL AND finished_at IS NOT NULL")
_PRIORITY = "urgent, normal or bulk: whose jobs go first"


def upgrade() -> None:
    """Move the schema to this revision."""
    # In SQL, because SQLite takes a check with a new column, but not after it.
    op.execute(
        "ALTER TABLE runs ADD COLUMN priority VARCHAR(16) DEFAULT 'normal' NOT NULL "
        "CONSTRAINT ck_runs_priority CHECK (priority IN ('urgent', 'normal', 'bulk'))"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"COMMENT ON COLUMN runs.priority IS '{_PRIORITY}'")
    for column in (
        sa.Column(
            "key",
            sa.String(length=200),
            nullable=True,
            comment="idempotency key: a request that is repeated with it gets this run",
        ),
        sa.Column("schedule", sa.String(length=64), nullable=True, comment="name of the schedule that made it"),
        sa.Column(
            "night",
            sa.String(length=32),
            nullable=True,
            comment="of a schedule: the day on whose evening the night began",
        ),
        sa.Column(
            "guards",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="limits by which it is judged when it ends; null: it is not judged",
        ),
        sa.Column(
            "guard",
            sa.String(length=32),
            nullable=True,
            comment="passed, or the code of the guard that tripped; null: not judged yet",
        ),
        sa.Column(
            "guard_text",
            sa.String(length=300),
            nullable=True,
            comment="why it tripped, for people; holds no path",
        ),
        sa.Column("notified_at", UtcDateTime(), nullable=True, comment="when somebody was told of its end, UTC"),
    ):
        op.add_column("runs", column)
    op.add_column(
        "scans",
        sa.Column(
            "modified_ns",
            sa.BigInteger(),
            nullable=True,
            comment="when it was last written, as listed; ns since 1970, UTC",
        ),
    )
    op.create_index("uq_runs_key", "runs", ["key"], unique=True)
    op.create_index(op.f("ix_runs_schedule_night"), "runs", ["schedule", "night"], unique=False)
    op.create_index(
        "ix_runs_unjudged", "runs", ["id"], unique=False, postgresql_where=_UNJUDGED, sqlite_where=_UNJUDGED
    )
    op.create_index("ix_scans_path", "scans", ["path"], unique=False, postgresql_using="hash")
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(length=64), nullable=False, comment="for people; part of its runs' keys"),
        sa.Column(
            "folders", sa.JSON(), nullable=False, comment="paths; %Y, %m, %d and the like stand for the night's date"
        ),
        sa.Column(
            "at_time",
            sa.String(length=5),
            nullable=True,
            comment="HH:MM, once each night, by the clocks of its time zone",
        ),
        sa.Column("every_s", sa.Integer(), nullable=True, comment="seconds between two runs, instead of at_time"),
        sa.Column("timezone", sa.String(length=64), nullable=False, comment="IANA name"),
        sa.Column("options", sa.JSON(), nullable=False, comment="model, priority, intake and guards of its runs"),
        sa.Column("created_by", sa.String(length=200), nullable=False, comment="user@host of the command"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="UTC; no night that was due before is missed"),
        sa.CheckConstraint("(at_time IS NULL) <> (every_s IS NULL)", name=op.f("ck_schedules_one_rhythm")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_schedules")),
    )
    op.create_table(
        "schedule_nights",
        sa.Column("schedule", sa.String(length=64), nullable=False, comment="its name"),
        sa.Column(
            "night",
            sa.String(length=32),
            nullable=False,
            comment="the day on whose evening the night began; with every_s the time it was due",
        ),
        sa.Column("due_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.Column(
            "status",
            sa.Enum(
                "starting",
                "started",
                "empty",
                "failed",
                "missed",
                name="status",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
            comment="starting, started, empty, failed or missed",
        ),
        sa.Column("run_id", sa.String(length=32), nullable=True, comment="its run, where it has one"),
        sa.Column("message", sa.String(length=300), nullable=True, comment="why it is failed or missed, for people"),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="how often a process began to start it"),
        sa.Column("holder", sa.String(length=200), nullable=True, comment="the process that starts it"),
        sa.Column("not_before", UtcDateTime(), nullable=True, comment="until then no other process starts it, UTC"),
        sa.Column("changed_at", UtcDateTime(), nullable=False, comment="UTC"),
        sa.ForeignKeyConstraint(
            ["schedule"], ["schedules.name"], name=op.f("fk_schedule_nights_schedule"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule", "night", name=op.f("pk_schedule_nights")),
    )
    op.create_index(op.f("ix_schedule_nights_schedule_due_at"), "schedule_nights", ["schedule", "due_at"], unique=False)


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.drop_table("schedule_nights")
    op.drop_table("schedules")
    op.drop_index("ix_scans_path", table_name="scans")
    for name in ("ix_runs_unjudged", op.f("ix_runs_schedule_night"), "uq_runs_key"):
        op.drop_index(name, table_name="runs")
    op.drop_column("scans", "modified_ns")
    for name in ("notified_at", "guard_text", "guard", "guards", "night", "schedule", "key", "priority"):
        op.drop_column("runs", name)
