"""Pictures of the program in a terminal, light and dark: python -m studies.terminal_pictures docs/pictures.

Each shows commands as they print at 80 or 140 columns, on the night that `nightread demo` writes.
"""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME, TerminalTheme
from rich.text import Text

_PROGRAM: Final = Path(sys.executable).with_name("nightread")
WIDTHS: Final = (80, 140)
THEMES: Final[dict[str, TerminalTheme]] = {"light": DEFAULT_TERMINAL_THEME, "dark": SVG_EXPORT_THEME}
#: Commands of each picture, by the beginning of its file's name.
PICTURES: Final = {
    "terminal": (["results"], ["runs"], ["explain", "damaged"], ["runs", "--limit", "x"]),
    "help": (["--help"], ["status", "--help"], ["doctor"]),
}
#: What the first sign of a command and its spinner leave: their lines, and how the last one is taken away.
_SPINNER: Final = re.compile(r".*(\x1b\[1A\x1b\[2K|\rstarting \r\x1b\[K)", re.DOTALL)
_ROWS: Final = 60


def run_in_terminal(words: list[str], width: int, env: dict[str, str], folder: Path) -> str:
    """Return what `nightread` prints in a terminal of `width` columns, colors included."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, width, 0, 0))
    process = subprocess.Popen(  # noqa: S603  # the program itself
        [_PROGRAM, *words], stdin=follower, stdout=follower, stderr=follower, env=env, cwd=folder
    )
    os.close(follower)
    said = b""
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:  # Linux: the last process has closed the terminal
            break
        if not part:
            break
        said += part
    os.close(leader)
    process.wait()
    return said.decode()


def record(commands: Sequence[list[str]], width: int, folder: Path) -> str:
    """Return the output of commands at `width` columns, each below its command line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTREAD_", "COLUMNS"))}
    database = {"NIGHTREAD_DATABASE_URL": f"sqlite:///{folder / 'nightread.db'}"}
    env = kept | database | {"HOME": str(folder), "TERM": "xterm-256color", "TZ": "UTC"}
    if not (folder / "nightread.db").exists():
        subprocess.run([_PROGRAM, "demo", "--folder", folder], env=env, cwd=folder, check=True, capture_output=True)  # noqa: S603
    parts = []
    for words in commands:
        said = _SPINNER.sub("", run_in_terminal(words, width, env, folder)).replace("\r\n", "\n")
        parts.append(f"\x1b[1m$ nightread {' '.join(words)}\x1b[0m\n{said}")
    return "\n".join(parts)


def draw(said: str, width: int, theme: TerminalTheme) -> str:
    """Return output as an SVG that loads nothing from elsewhere."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(said))
    svg = console.export_svg(title="nightread", theme=theme)
    return re.sub(r"@font-face\s*\{.*?\}\s*", "", svg, flags=re.DOTALL)


def main(target: Path) -> None:
    """Write a picture of each width and theme to the folder `target`."""
    with tempfile.TemporaryDirectory(prefix="night-") as folder:
        for picture, commands in PICTURES.items():
            for width in WIDTHS:
                said = record(commands, width, Path(folder))
                for name, theme in THEMES.items():
                    file = target / f"{picture}-{width}-{name}.svg"
                    file.write_text(draw(said, width, theme), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
