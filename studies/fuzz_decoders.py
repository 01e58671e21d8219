"""Coverage-guided fuzzing of `read_scan` with atheris, which needs Linux and Python up to 3.13.

    uv run --group test --with atheris python -m studies.fuzz_decoders build/fuzz -max_total_time=3600

The first argument is the folder of the corpus; it gets one small file of each kind. Others are those of libFuzzer. A
find is an exception that is no `ScanError`, a decode of more than 20 s, or one that takes more than 2 GB; libFuzzer
writes it to the current folder. Each find becomes a test.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nightread", "pydicom", "tifffile", "PIL"]):
    from nightread.errors import ScanError
    from nightread.scan.decode import read_scan

from studies.fuzzed_night import make_seeds

_MAX_PIXELS = 1_000_000
_LIMITS = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=65536"]


def _write_seeds(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in make_seeds().items():
        (folder / name).write_bytes(data)


def _decode(data: bytes) -> None:
    try:
        read_scan(data, max_pixels=_MAX_PIXELS, with_colors=True)
    except (ScanError, MemoryError):
        return


def main() -> None:
    """Fuzz until a find, or until libFuzzer's own limits."""
    corpus, *options = sys.argv[1:]
    _write_seeds(Path(corpus))
    atheris.Setup([sys.argv[0], corpus, *_LIMITS, *options], _decode)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
