"""What the HTTP API takes and gives, as types: they check requests, and the OpenAPI document is made from them."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from db.tables import RUN_KEY_LENGTH, RUN_NAME_LENGTH
from db.types import ModelStage, Priority, RunStatus, ScanStatus
from db.worklist_request import PageOrder

MOST_ROWS: Final = 1_000
_MOST_PATHS: Final = 100


def _check_text(text: str) -> str:
    """Return text that every database can hold: without NUL and without half of a surrogate pair."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("the text holds a character that cannot be stored")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_check_text)]
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=2_000), AfterValidator(_check_text)]
Limit = Annotated[int, Field(ge=1, le=MOST_ROWS)]


class _Taken(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunsQuery(_Taken):
    """Parameters of the list of runs."""

    name: Text | None = Field(None, description="part of a run's name, in small or capital letters")
    status: RunStatus | None = None
    limit: Limit = 100
    after: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        None, description="`next` of the page before"
    )


class ResultsQuery(_Taken):
    """Parameters of a run's results."""

    status: ScanStatus | None = None
    decision: Text | None = None
    label: Text | None = None
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    reason: Text | None = None
    order: PageOrder = PageOrder.HIGHEST
    limit: Limit = 100
    after: Cursor | None = Field(None, description="`next` of the page before")


class FileQuery(_Taken):
    """Parameters of a run's results as a file."""

    status: ScanStatus | None = None
    decision: Text | None = None
    label: Text | None = None
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None


class StudiesQuery(_Taken):
    """Parameters of the list of studies."""

    label: Text | None = None
    decision: Text | None = None
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    model: Text | None = Field(None, description="NAME@VERSION")
    limit: Limit = 100
    after: Annotated[Text, StringConstraints(max_length=64)] | None = Field(
        None, description="`next` of the page before"
    )


class ChangesQuery(_Taken):
    """Parameters of the feed of changes."""

    cursor: Cursor = Field("start", description="that the last reading ended with; `start`: everything, `now`: nothing")
    limit: Limit = 1_000


class NoQuery(_Taken):
    """No parameters."""


class NewRun(_Taken):
    """A run to enqueue."""

    paths: Annotated[list[Text], Field(min_length=1, max_length=_MOST_PATHS)] = Field(
        description="files and folders below NIGHTREAD_SCAN_ROOTS"
    )
    name: (
        Annotated[str, StringConstraints(min_length=1, max_length=RUN_NAME_LENGTH), AfterValidator(_check_text)] | None
    ) = None
    model: Text | None = Field(None, description="NAME[@VERSION]; default: the model of new runs")
    priority: Priority = Priority.NORMAL
    key: (
        Annotated[str, StringConstraints(min_length=1, max_length=RUN_KEY_LENGTH), AfterValidator(_check_text)] | None
    ) = Field(None, description="a repeated request with the same key gets the run that exists")


class Given(BaseModel):
    """Fields are only ever added."""

    model_config = ConfigDict(frozen=True)


class Counts(Given):
    """Scans of a run by status."""

    queued: int
    scored: int
    rejected: int
    failed: int


class Run(Given):
    """A run."""

    id: str
    name: str
    status: RunStatus
    model: str
    found: int
    counts: Counts
    decisions: dict[str, int]
    created_at: datetime
    finished_at: datetime | None
    priority: Priority
    guard: str | None
    guard_text: str | None


class Runs(Given):
    """A page of runs, newest first."""

    runs: list[Run]
    next: str | None = Field(description="`after` of the next page; null: there is none")


class Rows(Given):
    """A page of result rows: one for each label of a scored scan, and one for each other scan."""

    rows: list[dict[str, Any]]
    next: str | None = Field(description="`after` of the next page; null: there is none")


class Changes(Given):
    """Rows that became terminal since a cursor, each exactly once."""

    rows: list[dict[str, Any]]
    cursor: str = Field(description="for the next reading")


class StudyLabel(Given):
    """What a model said of one label of a study: the highest score of its scans."""

    model: str
    label: str
    score: float | None
    decision: str | None
    scored: int
    rejected: int
    failed: int
    time: datetime | None


class Study(Given):
    """A study: one roll-up for each model and label, and the rows of its scans."""

    study: str
    labels: list[StudyLabel]
    rows: list[dict[str, Any]]
    viewer: str | None = Field(
        description="address of the study in the viewer of NIGHTREAD_WEB_VIEWER; null: no viewer"
    )


class ListedStudy(Given):
    """A study: one roll-up for each model and label."""

    study: str
    labels: list[StudyLabel]
    viewer: str | None = Field(
        description="address of the study in the viewer of NIGHTREAD_WEB_VIEWER; null: no viewer"
    )


class Studies(Given):
    """A page of studies, sorted by UID; with a filter it may hold fewer than its limit, although others follow."""

    studies: list[ListedStudy]
    next: str | None = Field(description="`after` of the next page; null: there is none")


class Model(Given):
    """A model bundle that the database knows."""

    model: str
    digest: str
    stage: ModelStage
    labels: list[str]
    description: str
    created_at: datetime


class Models(Given):
    """All model bundles that the database knows."""

    models: list[Model]


class ModelCard(Given):
    """A model bundle with its card."""

    model: str
    digest: str
    stage: ModelStage
    card: dict[str, Any]


class Enqueued(Given):
    """An enqueued run."""

    run: str
    found: int
    skipped: dict[str, int]
    existed: bool = Field(description="whether an earlier request with the same key made it")


class Changed(Given):
    """What an action changed."""

    run: str
    scans: int


class Problem(Given):
    """Why a request was refused, and what to do."""

    error: str
