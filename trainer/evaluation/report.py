"""Report of a training or an evaluation: one self-contained HTML page, and its plots as files.

Importing this module without the extra `train` raises `TrainingError`, which names the remedy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from nightread.model.training_folder import Record
from nightread.text import show_text
from trainer.data.split import Part
from trainer.errors import TrainingError
from trainer.evaluation.metrics import Evaluation, PartScores
from trainer.evaluation.mistakes import Mistake
from trainer.fit.history import EpochRow

try:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from trainer.evaluation import plots
except ImportError:
    raise TrainingError("a report needs the extra `train`: uv sync --extra train") from None

REPORT_FILE: Final = "report.html"
PLOTS_FOLDER: Final = "plots"

_TEMPLATE: Final = "report.html.j2"


@dataclass(frozen=True, slots=True)
class ReportPart:
    """One part of the data in a report."""

    scores: PartScores
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Content of a report.

    Attributes:
        title: of the page.
        card: fields of a bundle's card.
        parts: by name; the report is about the last one.
        record: of the training; None for an evaluation on other data.
        history: of the training.
        best_epoch: epoch whose weights were kept.
        mistakes: on the last part.
        notes: further sentences for the reader.
    """

    title: str
    card: Mapping[str, Any]
    parts: Mapping[str, ReportPart]
    record: Record | None = None
    history: Sequence[EpochRow] = ()
    best_epoch: int = 0
    mistakes: Sequence[Mistake] = ()
    notes: Sequence[str] = field(default=())


def write_report(folder: Path, facts: ReportFacts) -> Path:
    """Write `report.html` and `plots/*.svg` into a folder that exists; return the path of the page."""
    pictures = _draw(facts)
    (folder / PLOTS_FOLDER).mkdir(exist_ok=True)
    for name, svg in pictures.items():
        (folder / PLOTS_FOLDER / f"{name}.svg").write_bytes(svg)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_show
    )
    template = environment.from_string(files("trainer").joinpath(_TEMPLATE).read_text("utf-8"))
    page = template.render(
        facts=facts,
        card=facts.card,
        classes=next(iter(facts.parts.values())).scores.task.classes,
        record=None if facts.record is None else facts.record.model_dump(mode="json"),
        pictures={name: Markup(svg.decode()) for name, svg in pictures.items()},  # noqa: S704  # drawn here, text escaped
        captions=_CAPTIONS,
    )
    path = folder / REPORT_FILE
    path.write_text(page, encoding="utf-8")
    return path


def _show(value: Any) -> Any:
    """Return a value of the page; in text, such as the name of a file, control characters are escaped."""
    return show_text(value) if type(value) is str else value


_CAPTIONS: Final = {
    "history": "Loss and accuracy over the epochs.",
    "confusion": "Scans by label and decision; the colour is the share of the row.",
    "curves": "All thresholds at once; dotted: guessing.",
    "calibration": "Whether a score can be read as a probability, and the distribution of the scores.",
    "mistakes": "The wrong decisions with the highest scores, as the network saw the scans, by file name.",
}


def _draw(facts: ReportFacts) -> dict[str, bytes]:
    last = list(facts.parts.values())[-1]
    pictures = {}
    if facts.history:
        pictures["history"] = plots.draw_history(facts.history, facts.best_epoch)
    pictures["confusion"] = plots.draw_confusion(
        {name: part.evaluation for name, part in facts.parts.items()}, last.scores.task.classes
    )
    pictures["curves"] = plots.draw_curves(last.scores, last.evaluation)
    pictures["calibration"] = plots.draw_calibration(
        {
            name: (part.scores, part.evaluation)
            for name, part in facts.parts.items()
            if name not in {Part.TRAIN, Part.VALIDATION}
        }
    )
    if facts.mistakes:
        pictures["mistakes"] = plots.draw_mistakes(facts.mistakes)
    return pictures
