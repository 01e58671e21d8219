"""A scored instance as a picture: score, decision and evidence burnt in, with a warning that no viewer can hide."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from db.study_results import LabelScore, ScoredInstance
from nightread import __version__
from nightread.inference.scorer import Scorer
from nightread.scan.preprocessing import read_and_prepare
from nightread.scan.thumbnail import make_thumbnail
from pacs.structured_report import CAPTURE_SERIES, DISCLAIMER, MAKER, derive_uid, set_time
from worker.report.pictures import lay_over

_FORM: Final = "sc/2"
_SIDE_PX: Final = 1024
_TEXT_PX: Final = 24
_MARGIN_PX: Final = 8
_YELLOW: Final = (255, 220, 0)


def identify_capture(model_digest: str, one: ScoredInstance) -> str:
    """Return the SOP Instance UID of an instance's picture; no file is needed."""
    said = [f"{score.label} {score.score!r} {score.decision}" for score in one.scores]
    return derive_uid(_FORM, one.instance_uid, one.sha256, model_digest, *said)


def make_capture(scorer: Scorer, one: ScoredInstance, image: Dataset, data: bytes, **limits: Any) -> Dataset:
    """Return the picture of an instance: RGB, at most 1024 pixels on its longer side.

    Args:
        scorer: the model, whose activation map is shown if it has one.
        one: the scored instance.
        image: its data set, without pixels; patient and study are copied from it.
        data: its file.
        limits: `max_pixels` and `accepted` of `nightread.scan.decode.read_scan`.

    Raises:
        ScanError: it cannot be decoded any more.
    """
    card = scorer.card
    drawn = Image.fromarray(make_thumbnail(data, side_px=_SIDE_PX, **limits)).convert("L")
    tensor, _ = read_and_prepare(data, card.input, **limits)
    maps = scorer.map_activation(tensor[np.newaxis])
    picture, legend = drawn.convert("RGB"), "Evidence: this model shows none"
    if maps is not None:
        label = max(one.scores, key=lambda score: score.score).label
        evidence = maps[0, :, :, card.labels.index(label)]
        picture = lay_over(drawn, evidence)
        is_any = float(evidence.max()) > 0
        legend = f"Evidence for {label}: {'orange, strongest where it is most opaque' if is_any else 'none'}"
    capture: Dataset = SCImage.from_ref_dataset(
        image,
        pixel_array=_write_lines(picture, one.scores, legend, card.reference),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        series_instance_uid=derive_uid("series", _FORM, one.study_uid, card.digest),
        series_number=CAPTURE_SERIES,
        sop_instance_uid=identify_capture(card.digest, one),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=card.reference[:64],
        software_versions=__version__,
        series_description=f"{MAKER}: {DISCLAIMER.lower()}",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    capture.PatientOrientation = image.get("PatientOrientation") or ""  # it was asked for above, and may be unknown
    capture.Laterality = image.get("Laterality") or ""
    capture.BurnedInAnnotation = "NO"  # the term is for what identifies a patient
    set_time(capture, one.scored_at)
    return capture


def _write_lines(picture: Image.Image, scores: Sequence[LabelScore], legend: str, model: str) -> npt.NDArray[np.uint8]:
    """Return (H, W, 3) with lines of text on black above and below the picture."""
    above = [f"{score.label}: {score.score:.3f} ({score.decision})" for score in scores]
    below = [legend, f"{MAKER} {__version__}, {model}", DISCLAIMER.upper()]
    line_px = _TEXT_PX + _MARGIN_PX
    font = ImageFont.load_default(_TEXT_PX)
    height = picture.height + line_px * (len(above) + len(below)) + 4 * _MARGIN_PX
    width = max(picture.width, *(int(font.getlength(line)) + 2 * _MARGIN_PX for line in above + below))
    page = Image.new("RGB", (width, height))
    page.paste(picture, ((width - picture.width) // 2, len(above) * line_px + 2 * _MARGIN_PX))
    writer = ImageDraw.Draw(page)
    for place, line in enumerate(above):
        writer.text((_MARGIN_PX, _MARGIN_PX + place * line_px), line, _YELLOW, font)
    for place, line in enumerate(reversed(below), 1):
        writer.text((_MARGIN_PX, height - place * line_px), line, _YELLOW, font)
    return np.asarray(page)
