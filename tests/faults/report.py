"""The fault table and what was counted, as docs/reliability.md shows them.

uv run --group test pytest tests/faults --seeds 50 --record build/faults.json
uv run --group test python -m tests.faults.report build/faults.json --into docs/reliability.md
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.rows import ROWS

_BEGIN, _END = "<!-- from tests/faults/report.py -->", "<!-- to here -->"


def render(record: list[dict[str, Any]]) -> str:
    """Return the table and its sums as Markdown."""
    lines = [
        "| # | fault | how it is made | what comes of it | cases | faults |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(ROWS, key=lambda row: (int(re.sub(r"\D", "", row.number)), row.number)):
        cases = [entry for entry in record if entry["row"] == row.number]
        faults = sum(sum(entry["faults"].values()) for entry in cases)
        lines.append(f"| {row.number} | {row.fault} | {row.injection} | {row.outcome} | {len(cases)} | {faults:,} |")
    names = ("scans", "redeliveries", "splits", "sweeps", "restarts")
    sums = {name: sum(entry[name] for entry in record) for name in names}
    faults = sum((Counter(entry["faults"]) for entry in record), Counter())
    seeds = sorted({entry["seed"] for entry in record})
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    told = (
        f"{len(record):,} cases ({told}), {faults.total():,} faults, {sums['scans']:,} scans enqueued, "
        f"{sums['redeliveries']:,} further claims of jobs, {sums['splits']:,} splits, {sums['sweeps']:,} sweeps that "
        f"found something to publish, {sums['restarts']:,} workers started again: 0 scans lost, 0 doubled, 0 wrong."
    )
    lines += ["", told]
    return "\n".join(lines)


def main() -> None:
    """Read records, and print the table or put it where the last one stands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    record = [entry for file in options.records for entry in json.loads(file.read_text())]
    record = [entry for entry in record if entry["outcome"] != "skipped"]
    failed = [entry for entry in record if entry["outcome"] != "passed"]
    if failed:
        names = ", ".join(f"row {entry['row']} seed {entry['seed']}" for entry in failed)
        sys.exit(f"not written: {names} failed")
    text = render(record)
    if options.into is None:
        sys.stdout.write(text + "\n")
        return
    before, _, rest = options.into.read_text().partition(_BEGIN)
    options.into.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{rest.partition(_END)[2]}")


if __name__ == "__main__":
    main()
