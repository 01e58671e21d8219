"""The picture of docs/how-to/worklist.md: the worklist page of the demo's night, as Chromium draws it.

uv run --extra web --group test python -m studies.worklist_picture docs/pictures/worklist.png
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


def main(target: Path) -> None:
    """Write the picture to `target`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        score_demo(folder)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
        options += [f"--user-data-dir={folder}/chromium", "--window-size={},{}".format(*_SIZE_PX)]
        with serve(folder) as address:
            subprocess.run(  # noqa: S603
                ["chromium", *options, f"--screenshot={target}", f"{address}/runs/demo"],  # noqa: S607
                check=True,
            )
    Image.open(target).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
