"""Report of the fault table with its counts, for docs/reliability.md.

uv run --group test pytest tests/faults/test_fault_table.py --long --seeds 50 --record build/faults.json
uv run --group test python -m tests.faults.soak --record build/soak.json
uv run --group test python -m tests.faults.report build/faults.json build/soak.json --into docs/reliability.md
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.faults.rows import ROWS

_BEGIN, _END = "<!-- from tests/faults/report.py -->", "<!-- to here -->"


SOAK = "30"


def render(record: list[dict[str, Any]]) -> str:
    """Return the table, its sums and the soak test (row 30) as Markdown; a repeated case counts once."""
    cases = list({(entry["row"], entry["seed"]): entry for entry in record}.values())
    soaks = [entry for entry in cases if entry["row"] == SOAK]
    cases = [entry for entry in cases if entry["row"] != SOAK]
    lines = [
        "| # | fault | how it is made | what comes of it | cases | faults |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(ROWS, key=lambda row: (int(re.sub(r"\D", "", row.number)), row.number)):
        of_row = [entry for entry in cases if entry["row"] == row.number]
        faults = sum(sum(entry["faults"].values()) for entry in of_row)
        lines.append(f"| {row.number} | {row.fault} | {row.injection} | {row.outcome} | {len(of_row)} | {faults:,} |")
    seeds = {entry["seed"] for entry in cases}
    named = f"{'seed' if len(seeds) == 1 else 'seeds'} {_format_ranges(seeds)}"
    summary = f"{len(cases):,} cases ({named}), {_format_sums(cases)}."
    return "\n".join([*lines, "", summary, *(_format_soak(entry) for entry in soaks)])


def _format_sums(entries: list[dict[str, Any]]) -> str:
    faults = sum(sum(entry["faults"].values()) for entry in entries)
    names = ("scans", "redeliveries", "splits", "sweeps", "restarts")
    sums = {name: sum(entry[name] for entry in entries) for name in names}
    return (
        f"{faults:,} faults, {sums['scans']:,} scans enqueued, {sums['redeliveries']:,} further claims of jobs, "
        f"{sums['splits']:,} splits, {sums['sweeps']:,} sweeps that found something to publish, "
        f"{sums['restarts']:,} workers started again: 0 scans lost, 0 doubled, 0 wrong"
    )


def _format_soak(entry: dict[str, Any]) -> str:
    first, last = entry["rss_mib"][0], entry["rss_mib"][-1]
    return (
        f"\n**Row 30**, the soak: {entry['seconds'] / 60:.0f} minutes (seed {entry['seed']}), "
        f"{len(entry['faults'])} kinds of faults in an order of chance, {_format_sums([entry])}. "
        f"Memory of the larger worker, all its processes: {first:,} MiB in the first third of the time, "
        f"{last:,} MiB in the last."
    )


def _format_ranges(numbers: set[int]) -> str:
    """Format numbers as ranges: `1 to 4, 7`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)


def main() -> None:
    """Read records, and print the table or replace the one in a page."""
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
