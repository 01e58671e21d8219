"""Views that answer the usual questions, and the indexes that keep them fast over many nights

A migration must leave a schema that the previous release still works with: workers are replaced one by one while
jobs run. Add columns as nullable or with a default, drop only what no release in use reads, and never hold a lock on
`scans` or `predictions` for longer than the statement and lock timeouts of `db.engine` allow.

The indexes take about ten seconds for each million scans, during which workers wait with their commits. Scores are read
from `worklist_rows`, whose key is a number: joining predictions by their digests took most of each query. Runs from
before 0003 get such rows here, and a tally, so that workers of any release keep both.
"""

import sqlalchemy as sa
from alembic import op

from db.migrations.views import ViewColumn, drop_views, replace_view

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# A content's row, and that of its prediction. PostgreSQL leaves out a join that no column needs; SQLite does so in no
# query that counts, so that there each column looks up its own.
_IS_CONTENT = (
    "{0}.sha256 = scans.sha256 AND {0}.model_digest = runs.model_digest AND {0}.preprocessing = models.preprocessing"
)
_IS_MEASUREMENT = _IS_CONTENT.format("measurements")
_IS_PREDICTION = _IS_CONTENT.format("predictions") + " AND predictions.label = worklist_rows.label"
# Each scan has a run, and each run a model: these are outer joins so that a query that needs neither reads neither, and
# so that SQLite begins at the scans, not at the runs.
_RESULTS_FROM = """\
FROM scans
LEFT JOIN runs ON runs.id = scans.run_id
LEFT JOIN models ON models.digest = runs.model_digest
LEFT JOIN worklist_rows ON worklist_rows.scan_id = scans.id"""
RESULTS_FROM = {
    "postgresql": f"""\
{_RESULTS_FROM}
LEFT JOIN predictions ON {_IS_PREDICTION}
LEFT JOIN measurements ON {_IS_MEASUREMENT}""",
    "sqlite": _RESULTS_FROM,
}


def _of(dialect: str, table: str, column: str) -> str:
    """Return the expression for a column of a content's row."""
    if dialect == "postgresql":
        return f"{table}.{column}"
    condition = _IS_PREDICTION if table == "predictions" else _IS_MEASUREMENT
    return f"(SELECT {table}.{column} FROM {table} WHERE {condition})"  # noqa: S608  # our own text


def list_results(dialect: str) -> tuple[ViewColumn, ...]:
    """Return the columns of the view `results`."""
    return (
        ViewColumn("scan_id", "scans.id", "the scan; with label the key of a row"),
        ViewColumn("run_id", "scans.run_id", "the run"),
        ViewColumn("run", "runs.name", "name of the run; need not be unique"),
        ViewColumn("path", "scans.path", r"absolute path; bytes that are not UTF-8 as \xNN, a backslash as two"),
        ViewColumn("study", "scans.study_uid", "DICOM Study Instance UID (0020,000D)"),
        ViewColumn("label", "worklist_rows.label", "label of the score; NULL without a score"),
        ViewColumn(
            "score", "-worklist_rows.minus_score", "score of the label, 0 to 1, not rounded; NULL without a score"
        ),
        ViewColumn("decision", "worklist_rows.decision", "the label, its negative, or uncertain; NULL without a score"),
        ViewColumn(
            "status", "scans.status", "queued, scored, rejected (the file is at fault) or failed (the system is)"
        ),
        ViewColumn("reason", "scans.reason_code", "reason code of a rejected or failed scan"),
        ViewColumn("reason_text", "scans.reason_text", "the reason for people; holds no path and no patient data"),
        ViewColumn("model", "models.name || '@' || models.version", "model of the run, NAME@VERSION"),
        ViewColumn("sha256", "scans.sha256", "SHA-256 of the file's bytes; NULL if it was not read"),
        ViewColumn("reused", "scans.reused", "whether the score was stored already"),
        ViewColumn("provider", _of(dialect, "predictions", "provider"), "execution provider that computed the score"),
        ViewColumn("time", "scans.finished_at", "when the status became terminal, UTC; NULL while queued"),
        ViewColumn("series", "scans.series_uid", "DICOM Series Instance UID (0020,000E)"),
        ViewColumn("instance", "scans.instance_uid", "DICOM SOP Instance UID (0008,0018)"),
        ViewColumn("body_part", "scans.body_part", "DICOM Body Part Examined (0018,0015)"),
        ViewColumn("view_position", "scans.view_position", "DICOM View Position (0018,5101): PA, AP, LL and others"),
        ViewColumn("laterality", "scans.laterality", "DICOM laterality: R, L, U or B"),
        ViewColumn("acquired_at", "scans.acquired_at", "when the scan was acquired, local time of the device"),
        ViewColumn("manufacturer", "scans.manufacturer", "DICOM Manufacturer (0008,0070)"),
        ViewColumn("station", "scans.station", "DICOM Station Name (0008,1010): the device"),
        ViewColumn(
            "accession_hash", "scans.accession_hash", "keyed hash of the accession number; NULL without that key"
        ),
        ViewColumn("brightness_rule", "scans.brightness_rule", "how black and white were determined"),
        ViewColumn("contradictions", "scans.contradictions", "contradictions of its attributes, codes with spaces"),
        ViewColumn("size_bytes", "scans.size_bytes", "size of the file when the folder was listed"),
        ViewColumn("worker", _of(dialect, "predictions", "worker"), "worker that computed the score"),
        ViewColumn(
            "gate_verdict",
            _of(dialect, "measurements", "gate_verdict"),
            "the input gate's verdict: passed, or the reason of a rejection",
        ),
        ViewColumn(
            "gate_distance",
            _of(dialect, "measurements", "distance"),
            "distance of the embedding from the training scans",
        ),
        ViewColumn("run_created", "runs.created_at", "when the run was created, UTC"),
    )


LATEST_FROM = """\
FROM results
WHERE results.time IS NOT NULL
AND NOT EXISTS (
    SELECT 1 FROM scans AS newer
    WHERE newer.path = results.path AND newer.id > results.scan_id AND newer.finished_at IS NOT NULL
)"""

RESULTS_BEFORE = """\
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
    scans.finished_at AS time,
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
    scans.contradictions AS contradictions
FROM scans
JOIN runs ON runs.id = scans.run_id
JOIN models ON models.digest = runs.model_digest
LEFT JOIN predictions
    ON scans.status = 'scored'
    AND predictions.sha256 = scans.sha256
    AND predictions.model_digest = runs.model_digest
    AND predictions.preprocessing = models.preprocessing
"""

_HIGHEST = "CASE WHEN ranked.place = 1 THEN {} END"
STUDIES = (
    ViewColumn("study", "ranked.study", "DICOM Study Instance UID; with model and label the key of a row"),
    ViewColumn("model", "ranked.model", "model that scored it, NAME@VERSION"),
    ViewColumn("label", "ranked.label", "label of the score; NULL if no scan has a score"),
    ViewColumn("score", "max(ranked.score)", "highest score of its scans; the input gate scores frontal ones alone"),
    ViewColumn("decision", f"max({_HIGHEST.format('ranked.decision')})", "decision of the scan with that score"),
    ViewColumn("path", f"max({_HIGHEST.format('ranked.path')})", "path of the scan with that score"),
    ViewColumn("scan_id", f"max({_HIGHEST.format('ranked.scan_id')})", "scan with that score"),
    ViewColumn("scored", "count(ranked.score)", "scans of the study with a score of this label"),
    ViewColumn("rejected", "max(ranked.rejected)", "rejected scans of the study"),
    ViewColumn("failed", "max(ranked.failed)", "failed scans of the study"),
    ViewColumn("time", "max(ranked.last)", "when the last of its scans became terminal, UTC"),
)
STUDIES_FROM = """\
FROM (
    SELECT latest_results.*,
        row_number() OVER (
            PARTITION BY study, model, label ORDER BY score DESC, scan_id
        ) AS place,
        sum(CASE status WHEN 'rejected' THEN 1 ELSE 0 END) OVER (PARTITION BY study, model) AS rejected,
        sum(CASE status WHEN 'failed' THEN 1 ELSE 0 END) OVER (PARTITION BY study, model) AS failed,
        max(time) OVER (PARTITION BY study, model) AS last,
        max(label) OVER (PARTITION BY study, model) AS any_label
    FROM latest_results
    WHERE study IS NOT NULL
) AS ranked
WHERE ranked.label IS NOT NULL OR ranked.any_label IS NULL
GROUP BY ranked.study, ranked.model, ranked.label"""

_SECONDS = {
    "postgresql": "CAST(extract(epoch FROM runs.finished_at - runs.created_at) AS DOUBLE PRECISION)",
    "sqlite": "(julianday(runs.finished_at) - julianday(runs.created_at)) * 86400.0",
}
_ENDED = "(counts.scored + counts.rejected + counts.failed)"


def list_nights(dialect: str) -> tuple[ViewColumn, ...]:
    """Return the columns of the view `nights`."""
    seconds = _SECONDS[dialect]
    return (
        ViewColumn("run_id", "runs.id", "the run; key of a row"),
        ViewColumn("run", "runs.name", "name of the run"),
        ViewColumn("status", "runs.status", "queued, running, finished or cancelled"),
        ViewColumn("model", "models.name || '@' || models.version", "model of the run, NAME@VERSION"),
        ViewColumn("created", "runs.created_at", "when the run was created, UTC"),
        ViewColumn("finished", "runs.finished_at", "when its last scan became terminal, UTC"),
        ViewColumn("seconds", seconds, "from its creation to its end"),
        ViewColumn("found", "runs.found", "scans of the run"),
        ViewColumn("scored", "counts.scored", "scans with a score"),
        ViewColumn("rejected", "counts.rejected", "scans whose file is at fault"),
        ViewColumn("failed", "counts.failed", "scans that the system could not score"),
        ViewColumn("queued", f"runs.found - {_ENDED}", "scans that are still to be scored"),
        ViewColumn("reused", "counts.reused", "scored scans whose score was stored already"),
        ViewColumn("positive", "counts.positive", "rows whose decision is a label"),
        ViewColumn("uncertain", "counts.uncertain", "rows whose decision is uncertain"),
        ViewColumn("scans_per_second", f"{_ENDED} / nullif({seconds}, 0)", "its terminal scans by its seconds"),
        ViewColumn("schedule", "runs.schedule", "schedule that made it"),
        ViewColumn("night", "runs.night", "of a schedule: the day on whose evening the night began"),
        ViewColumn("priority", "runs.priority", "urgent, normal or bulk"),
        ViewColumn("guard", "runs.guard", "passed, or the code of the guard that tripped; NULL: not judged"),
        ViewColumn("guard_text", "runs.guard_text", "why the guard tripped, for people"),
    )


def _sum_where(condition: str, name: str) -> str:
    return f"CAST(sum(CASE WHEN {condition} THEN tallies.count ELSE 0 END) AS BIGINT) AS {name}"


_IS_LABEL = (
    "EXISTS (SELECT 1 FROM tallies AS labels WHERE labels.run_id = tallies.run_id AND labels.kind = 'label'"
    " AND labels.name = tallies.name)"
)
_COUNTS = ",\n        ".join(
    [
        *(_sum_where(f"tallies.kind = '{status}'", status) for status in ("scored", "rejected", "failed")),
        _sum_where("tallies.kind = 'scored' AND tallies.name = 'reused'", "reused"),
        _sum_where(f"tallies.kind = 'decision' AND {_IS_LABEL}", "positive"),
        _sum_where("tallies.kind = 'decision' AND tallies.name = 'uncertain'", "uncertain"),
    ]
)
NIGHTS_FROM = f"""\
FROM runs
JOIN models ON models.digest = runs.model_digest
LEFT JOIN (
    SELECT tallies.run_id AS run_id,
        {_COUNTS}
    FROM tallies
    GROUP BY tallies.run_id
) AS counts ON counts.run_id = runs.id"""  # noqa: S608  # our own text

# Runs of before 0003, and those that its workers had a part in: their tallies do not add up.
_UNCOUNTED = """\
SELECT runs.id FROM runs
LEFT JOIN (
    SELECT run_id, sum(count) AS ended FROM tallies WHERE kind IN ('scored', 'rejected', 'failed') GROUP BY run_id
) AS counts ON counts.run_id = runs.id
WHERE NOT EXISTS (SELECT 1 FROM tallies WHERE tallies.run_id = runs.id AND tallies.kind = 'found')
OR (runs.finished_at IS NOT NULL AND runs.found <> coalesce(counts.ended, 0))"""

_OF_RUN = """\
FROM scans
JOIN runs ON runs.id = scans.run_id
JOIN models ON models.digest = runs.model_digest
JOIN predictions
    ON predictions.sha256 = scans.sha256
    AND predictions.model_digest = runs.model_digest
    AND predictions.preprocessing = models.preprocessing
WHERE scans.run_id = ? AND scans.status = 'scored'"""

_FILL_WORKLIST = f"""\
INSERT INTO worklist_rows (run_id, label, decision, minus_score, scan_id)
SELECT scans.run_id, predictions.label, predictions.decision, -predictions.score, scans.id
{_OF_RUN}
AND NOT EXISTS (
    SELECT 1 FROM worklist_rows AS present WHERE present.scan_id = scans.id AND present.label = predictions.label
)"""  # noqa: S608  # our own text

_NAME = "CASE WHEN reused THEN 'reused' ELSE coalesce(reason_code, '') END"
_INSERT_TALLY = "INSERT INTO tallies (run_id, slot, kind, name, count, changed_at) SELECT "
_FILL_TALLY = (
    f"{_INSERT_TALLY} id, 0, 'found', '', found, created_at FROM runs WHERE id = ?",
    (
        f"{_INSERT_TALLY} run_id, 0, status, {_NAME}, count(*), max(finished_at) FROM scans"
        f" WHERE run_id = ? AND status <> 'queued' GROUP BY run_id, status, {_NAME}"
    ),
    *(
        f"{_INSERT_TALLY} scans.run_id, 0, '{kind}', predictions.{kind}, count(*), max(scans.finished_at)"
        f" {_OF_RUN} GROUP BY scans.run_id, predictions.{kind}"
        for kind in ("label", "decision", "provider")
    ),
)


def upgrade() -> None:
    """Move the schema to this revision."""
    dialect = op.get_bind().dialect.name
    if dialect == "postgresql":
        # The new index begins with the path: it answers what was said of a file, and prefixes by LIKE in any locale.
        op.create_index(
            "uq_scans_path_run_id", "scans", ["path", "run_id"], unique=True,
            postgresql_ops={"path": "text_pattern_ops"},
        )  # fmt: skip
        op.drop_constraint("uq_scans_run_id_path", "scans", type_="unique")
    else:  # cannot drop a constraint without copying the table, and its LIKE disregards case
        op.create_index("uq_scans_path_run_id", "scans", ["path", "run_id"], unique=True)
        op.create_index("ix_scans_path_nocase", "scans", [sa.text("path COLLATE NOCASE")])
    op.drop_index("ix_scans_path", table_name="scans")  # the new one holds the same
    op.create_index("ix_scans_finished_at_status", "scans", ["finished_at", "status"])
    has_study = sa.text("study_uid IS NOT NULL")
    op.create_index("ix_scans_study_uid", "scans", ["study_uid"], postgresql_where=has_study, sqlite_where=has_study)
    op.create_index("ix_worklist_rows_scan_id_label", "worklist_rows", ["scan_id", "label"])
    _fill_uncounted()
    if dialect == "sqlite":  # without statistics it may begin a query at the wrong table
        op.execute("PRAGMA analysis_limit = 1000")
        op.execute("ANALYZE")
    results, source = list_results(dialect), RESULTS_FROM[dialect]
    replace_view("results", "one row for each label of a scored scan, and one for each other scan", results, source)
    latest = [ViewColumn(column.name, f"results.{column.name}", column.comment) for column in results]
    replace_view(
        "latest_results", "the rows of `results` for each file's newest run in which it has ended", latest, LATEST_FROM
    )
    replace_view(
        "studies", "one row for each study, model and label, of each file's newest result", STUDIES, STUDIES_FROM
    )
    replace_view("nights", "one row for each run, with its counts", list_nights(dialect), NIGHTS_FROM)


def _fill_uncounted() -> None:
    connection = op.get_bind()
    uncounted = connection.exec_driver_sql(_UNCOUNTED).scalars().all()
    place = "%s" if connection.dialect.name == "postgresql" else "?"
    for run_id in uncounted:
        for statement in ("DELETE FROM tallies WHERE run_id = ?", _FILL_WORKLIST, *_FILL_TALLY):
            connection.exec_driver_sql(statement.replace("?", place), (run_id,))


def downgrade() -> None:
    """Move the schema back to the revision before."""
    drop_views("nights", "studies", "latest_results", "results")
    op.drop_index("ix_worklist_rows_scan_id_label", table_name="worklist_rows")
    op.drop_index("ix_scans_study_uid", table_name="scans")
    op.drop_index("ix_scans_finished_at_status", table_name="scans")
    if op.get_bind().dialect.name == "postgresql":
        op.create_unique_constraint("uq_scans_run_id_path", "scans", ["run_id", "path"])
    else:
        op.drop_index("ix_scans_path_nocase", table_name="scans")
    op.create_index("ix_scans_path", "scans", ["path"], postgresql_using="hash")
    op.drop_index("uq_scans_path_run_id", table_name="scans")
    op.execute(RESULTS_BEFORE)
