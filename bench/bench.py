"""One measurement of this machine: its scans, its model, and its rounds."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.servers import Servers
    from nightread.settings import Settings

#: Scored before each measurement of workers, so that each has opened the model.
_WARM_UP_SCANS = 16


class Bench:
    """One measurement: its scans, its model, and what the rounds have come to."""

    def __init__(
        self,
        settings: "Settings",
        source: Path | None,
        count: int,
        temporary: Path,
        waiting: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """Write the scans and open the model; `waiting` shows what is being done."""
        from bench.report import Rounds
        from bench.scans import write_bench_scans
        from nightread.inference.scorer import Scorer
        from nightread.machine import count_cores
        from nightread.model.bundle import DEFAULT_MODEL, find_bundle, load_bundle

        self._settings = settings
        self._waiting = waiting
        self._temporary = temporary
        self._bundle = load_bundle(find_bundle(settings.model or DEFAULT_MODEL, settings.models_dir))
        self._processes = settings.threads or count_cores()
        self._provider = Scorer(self._bundle, settings.device, 1).provider
        most = settings.max_file_bytes
        with self._waiting("writing scans"):
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
        from bench.servers import NoServers, open_servers

        try:
            servers = stack.enter_context(open_servers(self._settings))
        except NoServers as error:
            self._not_measured.append(f"workers: {error}")
            return None
        self._servers = servers.description
        return servers

    def _measure_once(self, servers: "Servers | None", workers: int, place: str) -> None:
        from dataclasses import replace

        from bench.stages import measure_stages
        from bench.ways import score_folder, score_with_workers

        reference = self._bundle.card.reference
        self._rounds.loads.append(os.getloadavg()[0])
        with self._waiting(place + "each stage"):
            stages = measure_stages(self._scans.paths, reference, self._settings, self._processes)
            rates = {**stages.rates, "commit": self._measure_commit()}
            self._rounds.stages.append(replace(stages, rates=rates))
        with self._waiting(place + "score"):
            first, again = score_folder(self._scans, self._settings, reference, self._temporary)
            self._rounds.embedded.append(first)
            self._rounds.reused.append(again)
        if servers is None:
            return
        for count in sorted({1, workers}):
            with self._waiting(f"{place}{count} workers"):
                rate = score_with_workers(self._scans, self._warm_up, self._settings, self._bundle, servers, count)
                self._rounds.workers.setdefault(count, []).append(rate)

    def _measure_commit(self) -> float:
        from bench.stages import measure_commit
        from db.engine import make_engine
        from db.schema import upgrade

        engine = make_engine(f"sqlite:///{self._temporary / 'commit.db'}")
        upgrade(engine)
        rate = measure_commit(engine, self._settings, self._bundle, self._scans.folder)
        engine.dispose()
        for file in self._temporary.glob("commit.db*"):
            file.unlink()
        return rate

    def describe(self) -> dict[str, Any]:
        """Return the measurement for programs."""
        from bench.report import describe

        return describe(
            self._rounds, self._scans, model=self._bundle.card.reference, provider=self._provider,
            servers=self._servers, not_measured=self._not_measured,
        )  # fmt: skip
