"""The pictures of docs/how-to/worklist.md: pages of the demo's night, as Chromium draws them.

uv run --extra web --group test python -m studies.worklist_picture docs/pictures
"""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from PIL import Image
from pydantic import SecretStr

from nightread.settings import read_settings
from studies.night_picture import score_demo
from web.app import make_app

_SIZE_PX: Final = (1280, 720)
#: Addresses by the name of their picture.
_PAGES: Final = {"worklist.png": "/runs/demo", "scan.png": "/scans/5?map=pneumonia", "drift.png": "/runs/demo/drift"}


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the page over the database in `folder`; yields its address."""
    settings = read_settings(database_url=SecretStr(f"sqlite:///{folder / 'nightread.db'}"), web_cache_bytes=0)
    server = uvicorn.Server(uvicorn.Config(make_app(settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def main(folder: Path) -> None:
    """Write the pictures into `folder`."""
    with tempfile.TemporaryDirectory() as name:
        night = Path(name)
        score_demo(night)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
        options += [f"--user-data-dir={night}/chromium", "--window-size={},{}".format(*_SIZE_PX)]
        with serve(night) as address:
            for picture, page in _PAGES.items():
                subprocess.run(  # noqa: S603
                    ["chromium", *options, f"--screenshot={folder / picture}", f"{address}{page}"],  # noqa: S607
                    check=True,
                )
    for picture in _PAGES:
        drawn = Image.open(folder / picture).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        drawn.save(folder / picture, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
