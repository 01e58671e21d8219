"""Start of the program: refuses to run where another package has taken the name of one of Nightread's.

The packages beside `nightread` have everyday names. An installed one of the same name, or a folder of that name on
PYTHONPATH, would be imported instead, and its code would run.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

from nightread.errors import is_interruption

_HOME: Final = Path(__file__).resolve().parents[1]
_PACKAGES: Final = ("bench", "cli", "db", "exporter", "pacs", "trainer", "web", "worker")
_INTERRUPTED: Final = 130  # `cli.exits.Exit`, which is not imported yet


def find_foreign() -> list[str]:
    """Return what would be imported instead of Nightread's own packages, as "NAME in FOLDER"."""
    foreign = []
    for name in _PACKAGES:
        spec = find_spec(name)
        places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
        if not any(Path(place).resolve().is_relative_to(_HOME / name) for place in places if place):
            foreign.append(f"{name} in {Path(places[-1]).parent}" if places else f"{name} is missing")
    return foreign


def main() -> NoReturn:
    """Run the program."""
    try:
        if foreign := find_foreign():
            sys.stderr.write(
                f"nightread: another package hides one of Nightread's: {'; '.join(foreign)}. Install Nightread into an "
                "environment of its own (uv tool install nightread), or take that folder off PYTHONPATH\n"
            )
            sys.exit(1)
        import_module("cli.main").run()
    except (Exception, KeyboardInterrupt) as error:
        if not is_interruption(error):
            raise
        # Before the command line is read; `run` itself tells of later ones.
        sys.stderr.write("nightread: interrupted\n")
        sys.exit(_INTERRUPTED)
    raise AssertionError("unreachable")


if __name__ == "__main__":
    main()
