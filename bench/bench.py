"""One measurement of this machine: its scans, its model, and its rounds."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.report import Rounds, describe
from bench.scans import write_bench_scans
from bench.servers import NoServers, Servers, open_servers
from bench.stages import measure_commit, measure_stages
from bench.ways import score_folder, score_with_workers
from db.engine import make_engine
from db.schema import upgrade
from nightread.inference.scorer import Scorer
from nightread.machine import count_cores
from nightread.model.bundle import DEFAULT_MODEL, find_bundle, load_bundle
from nightread.settings import Settings

#: Scored before each measurement of workers, so that each of them has opened the model.
_WARM_UP_SCANS = 16


class Bench:
    """One measurement: its scans, its model, and the results of its rounds."""

    def __init__(
        self,
        settings: Settings,
        source: Path | None,
        count: int,
        temporary: Path,
        waiting: Callable[[str], AbstractContextManager[object]],
    ) -> None:
        """Write the scans and open the model; `waiting` shows the current step."""
        self._settings = settings
        self._waiting = waiting
        self._temporary = temporary
        self._bundle = load_bundle(find_bundle(settings.model or DEFAULT_MODEL, settings.models_dir))
        self._provider = Scorer(self._bundle, settings.device, 1).provider
        most = settings.max_file_bytes
        with waiting("writing scans"):
            self._scans = write_bench_scans(source, temporary / "scans", count, most)
            self._warm_up = write_bench_scans(None, temporary / "warm-up", _WARM_UP_SCANS, most)
        self._processes = min(settings.threads or count_cores(), len(self._scans.paths))
        self._rounds = Rounds()
        self._servers = ""
        self._not_measured: list[str] = []

    def measure(self, rounds: int, workers: int) -> None:
        """Measure everything `rounds` times in turn, so that a slow minute affects all of it."""
        with contextlib.ExitStack() as stack:
            servers = self._open_servers(stack) if workers else None
            for number in range(1, rounds + 1):
                self._measure_once(servers, workers, f"round {number} of {rounds}: ")

    def _open_servers(self, stack: contextlib.ExitStack) -> Servers | None:
        try:
            servers = stack.enter_context(open_servers(self._settings))
        except NoServers as error:
            self._not_measured.append(f"workers: {error}")
            return None
        self._servers = servers.description
        return servers

    def _measure_once(self, servers: Servers | None, workers: int, place: str) -> None:
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
        engine = make_engine(f"sqlite:///{self._temporary / 'commit.db'}")
        upgrade(engine)
        rate = measure_commit(engine, self._settings, self._bundle, self._scans.folder)
        engine.dispose()
        for file in self._temporary.glob("commit.db*"):
            file.unlink()
        return rate

    def describe(self) -> dict[str, Any]:
        """Return the measurement for programs."""
        return describe(
            self._rounds, self._scans, model=self._bundle.card.reference, provider=self._provider,
            servers=self._servers, not_measured=self._not_measured,
        )  # fmt: skip
