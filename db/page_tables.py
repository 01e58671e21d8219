"""The tables that users of the worklist page write: marks, and the audit of their actions."""

from sqlalchemy import BigInteger, ForeignKey, Index, String, Table

from db.columns import DIGEST, ID, NOTE_LENGTH, SERIAL, TIME, column
from db.tables import metadata
from db.types import MarkKind, enum_by_value

#: One action of a user of the worklist page; rows are never changed, and refer to no other table: they outlive it.
page_actions = Table(
    "page_actions",
    metadata,
    column("id", SERIAL, primary_key=True),
    column("at", TIME, comment="UTC"),
    column("user_name", String(200), comment="who did it"),
    column("role", String(16), comment="of the user then: view, mark or operate"),
    column("action", String(32), comment="what was done, such as login or retry"),
    column("run_id", ID, nullable=True, comment="the run that it was done to"),
    column("scan_id", BigInteger(), nullable=True, comment="the scan that it was done to"),
    column("detail", String(200), nullable=True, comment="more of it; holds no path"),
)

#: One mark of a user on a scan; it is undone, never changed, and changes no prediction. It goes with its run.
marks = Table(
    "marks",
    metadata,
    column("id", SERIAL, primary_key=True, comment="in the order of the marks"),
    column("run_id", ForeignKey("runs.id", ondelete="CASCADE")),
    column("scan_id", ForeignKey("scans.id", ondelete="CASCADE"), index=True),
    column("model_digest", ForeignKey("models.digest"), comment="the model whose decision was judged"),
    column("sha256", DIGEST, nullable=True, comment="of the scan's bytes"),
    column("user_name", String(200), comment="who marked it"),
    column("kind", enum_by_value(MarkKind, "kind"), comment="seen, agree, disagree or note"),
    column("label", String(64), nullable=True, comment="what the user says is right; null: no label"),
    column("note", String(NOTE_LENGTH), nullable=True, comment="text of a note"),
    column("at", TIME, comment="UTC"),
    column("undone_at", TIME, nullable=True, comment="when its user took it back, UTC"),
    Index(None, "run_id", "scan_id"),
)
