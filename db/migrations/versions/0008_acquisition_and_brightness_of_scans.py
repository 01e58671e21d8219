"""Acquisition of scans (view, device, time) and the rule of their brightness

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

The release before leaves the columns empty. Rows are not rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_VIEW = """\
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
    scans.finished_at AS time{added}
FROM scans
JOIN runs ON runs.id = scans.run_id
JOIN models ON models.digest = runs.model_digest
LEFT JOIN predictions
    ON scans.status = 'scored'
    AND predictions.sha256 = scans.sha256
    AND predictions.model_digest = runs.model_digest
    AND predictions.preprocessing = models.preprocessing
"""
_ADDED = """,
    scans.series_uid AS series,
    scans.instance_uid AS instance,
    scans.body_part AS body_part,
    scans.view_position AS view_position,
    scans.laterality AS laterality,
    scans.acquired_at AS acquired_at,
    scans.manufacturer AS manufacturer,
    scans.station AS station,
    scans.accession_hash AS accession_hash,
    scans.brightness_rule AS brightness_rule,
    scans.contradictions AS contradictions"""

_COLUMNS = (
    ("body_part", sa.String(length=16), "DICOM (0018,0015)"),
    ("view_position", sa.String(length=16), "DICOM (0018,5101), or the short form of (0054,0220)"),
    ("laterality", sa.String(length=1), "DICOM (0020,0062) or (0020,0060): R, L, U or B"),
    ("acquired_at", sa.DateTime(), "DICOM (0008,002A) or (0008,0022) with (0008,0032), local"),
    ("manufacturer", sa.String(length=64), "DICOM (0008,0070)"),
    ("station", sa.String(length=16), "DICOM (0008,1010)"),
    (
        "accession_hash",
        sa.String(length=64),
        "HMAC-SHA256 of DICOM (0008,0050) with NIGHTREAD_ACCESSION_KEY; null without that key",
    ),
    ("brightness_rule", sa.String(length=16), "how black and white were determined; null: not decoded"),
    (
        "contradictions",
        sa.String(length=200),
        "contradictions of its attributes, codes separated by spaces; null: none",
    ),
)


def upgrade() -> None:
    """Move the schema to this revision."""
    for name, kind, comment in _COLUMNS:
        op.add_column("scans", sa.Column(name, kind, nullable=True, comment=comment))
    op.execute("DROP VIEW results")
    op.execute(_VIEW.format(added=_ADDED))


def downgrade() -> None:
    """Move the schema back to the revision before."""
    op.execute("DROP VIEW results")
    op.execute(_VIEW.format(added=""))
    for name, _, _ in reversed(_COLUMNS):
        op.drop_column("scans", name)
