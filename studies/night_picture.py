"""The picture at the top of README.md: one ward of the demo's night, with the rows that Nightread stored for it.

uv run --group test python -m studies.night_picture docs/pictures/night.png
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nightread.errors import ScanError
from nightread.scan.decode import read_scan

_PROGRAM: Final = Path(sys.executable).with_name("nightread")
_COLUMNS: Final = 5
_TILE_PX: Final = (180, 150)
_GAP_PX: Final = 16
_TEXT_PX: Final = 46
_SHADES: Final = {"scored": "#15803d", "reused": "#1d4ed8", "rejected": "#b91c1c"}


def score_demo(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write and score the demo's night below `folder`; return its rows and its summary."""
    database = ["env", f"NIGHTREAD_DATABASE_URL=sqlite:///{folder / 'nightread.db'}", _PROGRAM]
    demo, rows = (
        subprocess.run([*database, *words], cwd=folder, capture_output=True, text=True, check=True).stdout  # noqa: S603
        for words in (["demo", "--folder", folder, "--json"], ["results", "--format", "json"])
    )
    return json.loads(rows), json.loads(demo.splitlines()[-1])


def draw_tile(path: Path) -> Image.Image:
    """Return the scan at `path` as a picture, or an empty one with a cross where its file holds no whole scan."""
    try:
        scan = read_scan(path.read_bytes(), max_pixels=10**7)
    except ScanError:
        tile = Image.new("L", _TILE_PX, 225)
        ImageDraw.Draw(tile).line([(0, 0), _TILE_PX, (_TILE_PX[0], 0), (0, _TILE_PX[1])], fill=190, width=2)
        return tile
    gray = np.interp(scan.pixels, sorted((scan.black, scan.white)), (0, 255))
    return Image.fromarray(gray.astype(np.uint8)).resize(_TILE_PX, Image.Resampling.LANCZOS)


def describe(row: dict[str, Any]) -> tuple[str, str]:
    """Return what the picture says of a row, and its color."""
    if row["status"] != "scored":
        return f"{row['status']}: {row['reason']}", _SHADES[row["status"]]
    if row["reused"]:
        return f"{row['decision']} {row['score']:.2f}, reused", _SHADES["reused"]
    return f"{row['decision']} {row['score']:.2f}", _SHADES["scored"]


def draw_night(rows: list[dict[str, Any]], summary: dict[str, Any]) -> Image.Image:
    """Return the rows of a night as tiles, above its reconciliation."""
    step = (_TILE_PX[0] + _GAP_PX, _TILE_PX[1] + _TEXT_PX + _GAP_PX)
    lines = -(-len(rows) // _COLUMNS)
    picture = Image.new("RGB", (_COLUMNS * step[0] + _GAP_PX, lines * step[1] + _GAP_PX + 36), "white")
    pen = ImageDraw.Draw(picture)
    small, large = ImageFont.load_default(14), ImageFont.load_default(15)
    for index, row in enumerate(rows):
        x, y = _GAP_PX + index % _COLUMNS * step[0], _GAP_PX + index // _COLUMNS * step[1]
        picture.paste(draw_tile(Path(row["path"])), (x, y))
        text, shade = describe(row)
        pen.text((x, y + _TILE_PX[1] + 4), Path(row["path"]).name, fill="#4b5563", font=small)
        pen.text((x, y + _TILE_PX[1] + 22), text, fill=shade, font=large)
    total = "{found} found = {scored} scored + {rejected} rejected + {failed} failed".format(**summary)
    pen.text((_GAP_PX, lines * step[1] + _GAP_PX), total, fill="#111827", font=large)
    return picture.quantize(128, method=Image.Quantize.MEDIANCUT)


def main(target: Path) -> None:
    """Write the picture to `target`."""
    with tempfile.TemporaryDirectory() as folder:
        rows, summary = score_demo(Path(folder))
        draw_night(rows, summary).save(target, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
