"""The part of a page that a study writes: what stands between its two marks."""

import sys
from pathlib import Path


def write_part(page: Path, study: str, text: str) -> None:
    """Replace what stands between `<!-- STUDY begins -->` and `<!-- STUDY ends -->`; exit if a page lacks them.

    Args:
        page: a Markdown page.
        study: name of the part, such as `studies/gpu.py`.
        text: Markdown, without the marks.
    """
    begin, end = f"<!-- {study} begins -->", f"<!-- {study} ends -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{page} lacks the lines {begin} and {end}; add them where the table belongs")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
