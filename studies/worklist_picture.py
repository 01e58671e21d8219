"""The picture of docs/how-to/worklist.md: the worklist page of the demo's night, as Chromium draws it.

uv run --group test python -m studies.worklist_picture docs/pictures/worklist.png
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from pydantic import SecretStr
from starlette.testclient import TestClient

from nightread.settings import read_settings
from studies.night_picture import score_demo
from web.app import make_app
from web.showing import STATIC_FOLDER

_SIZE_PX: Final = (1100, 940)


def fetch_worklist(folder: Path) -> str:
    """Return the page of the demo's run in `folder`, with its style sheet inside."""
    settings = read_settings(database_url=SecretStr(f"sqlite:///{folder / 'nightread.db'}"))
    with TestClient(make_app(settings), base_url="http://localhost") as client:
        page = client.get("/runs/demo").raise_for_status().text
    style = (STATIC_FOLDER / "page.css").read_text(encoding="utf-8")
    return re.sub(r'<link rel="stylesheet"[^>]*>', lambda _: f"<style>{style}</style>", page)


def main(target: Path) -> None:
    """Write the picture to `target`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        score_demo(folder)
        page = folder / "page.html"
        page.write_text(fetch_worklist(folder).replace(f"{folder}/", "/scans/"), encoding="utf-8")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/chromium",
        ]
        size = "--window-size={},{}".format(*_SIZE_PX)
        subprocess.run(["chromium", *options, size, f"--screenshot={target}", page.as_uri()], check=True)  # noqa: S603, S607
    Image.open(target).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
