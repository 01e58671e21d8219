"""Pictures of listed scans: a thumbnail, and where the network found evidence for a label."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from db.run_report import ListedScan
from db.runs import RunInfo
from nightread.errors import ModelError, ScanError
from nightread.inference.scored_file import ScoredFileGone, read_scored_file
from nightread.inference.scorer import Scorer
from nightread.scan.preprocessing import read_and_prepare
from nightread.scan.thumbnail import make_thumbnail
from worker.process import WorkerProcess

_SIDE_PX: Final = 240
#: Of the evidence, in RGB: it stands out on gray in light and dark.
_COLOR: Final = (255, 138, 0)
_OPACITY: Final = 0.6


@dataclass(frozen=True, slots=True)
class Picture:
    """Pictures of one scan, as `data:` URLs.

    Attributes:
        scan: thumbnail; empty if the file cannot be shown.
        activation_map: the same with the evidence for the label in color; empty if the network has no map.
        why: why the file cannot be shown; empty if it can.
    """

    scan: str = ""
    activation_map: str = ""
    why: str = ""


def draw_pictures(
    process: WorkerProcess, run: RunInfo, listed: Sequence[ListedScan], place: int
) -> tuple[list[Picture], str]:
    """Draw the pictures of scans; a file that holds other bytes than those that were scored is not shown.

    Args:
        process: settings, and the run's model.
        run: the run.
        listed: its scans.
        place: index of the label whose evidence is shown.

    Returns:
        One picture for each scan, and why there is no activation map, "" if there is.
    """
    scorer, why = None, ""
    try:
        scorer = process.find_scorer(run)
    except ModelError as error:
        why = f"no activation maps: {error}"
    archives = bool(run.settings.get("archives"))
    pictures, has_map = [], False
    for scan in listed:
        try:
            data = read_scored_file(process.settings, scan.path, scan.sha256, run.sources, archives=archives)
        except ScoredFileGone as gone:
            pictures.append(Picture(why=str(gone)))
            continue
        pictures.append(_draw(process, scorer, data, place))
        has_map |= bool(pictures[-1].activation_map)
    if listed and not has_map and not why:
        why = f"{run.model} computes no activation map"
    return pictures, why


def _draw(process: WorkerProcess, scorer: Scorer | None, data: bytes, place: int) -> Picture:
    settings = process.settings
    limits: dict[str, Any] = {"max_pixels": settings.max_pixels, "accepted": settings.accepted}
    try:
        gray = make_thumbnail(data, side_px=_SIDE_PX, **limits)
        maps = None
        if scorer is not None:
            tensor, _ = read_and_prepare(data, scorer.card.input, **limits)
            maps = scorer.map_activation(tensor[np.newaxis])
    except ScanError as error:
        return Picture(why=str(error))
    drawn = Image.fromarray(gray)
    if maps is None:
        return Picture(_encode(drawn))
    return Picture(_encode(drawn), _encode(lay_over(drawn, maps[0, :, :, place])))


def lay_over(drawn: Image.Image, evidence: npt.NDArray[np.float32]) -> Image.Image:
    """Return a gray picture with the evidence for a label in color.

    Only what speaks for the label is shown; the strongest evidence of this scan has the strongest color.

    Args:
        drawn: gray, (W, H).
        evidence: (h, w), higher where the scan speaks for the label.
    """
    strongest = float(evidence.max())
    share = np.clip(evidence / strongest, 0, 1) if strongest > 0 else np.zeros_like(evidence)
    smooth = Image.fromarray(share.astype(np.float32)).resize(drawn.size, Image.Resampling.BICUBIC)
    opacity = Image.fromarray(np.rint(np.clip(np.asarray(smooth), 0, 1) * 255 * _OPACITY).astype(np.uint8))
    return Image.composite(Image.new("RGB", drawn.size, _COLOR), drawn.convert("RGB"), opacity)


def _encode(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
