"""The state of one worker process: settings, database, threads and opened models.

It is made after a fork, in the process that uses it: neither an inference session nor a database connection can be
inherited.
"""

import gc
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from db.engine import make_engine
from db.runs import RunInfo
from nightread.errors import CardMismatch
from nightread.inference.early_open import Ahead
from nightread.inference.scorer import Scorer
from nightread.machine import count_cores, keep_freed_memory, read_memory_limit
from nightread.model.bundle import Bundle, find_bundle, load_bundle
from nightread.scan.files import decode_path
from nightread.settings import Settings
from worker.decoder.decoder import Decoder
from worker.decoder.sandbox import IsolationLimits
from worker.health import find_progress
from worker.jobs.pipeline import Limits
from worker.registry.choose import choose_bundle

_log = logging.getLogger(__name__)

#: Python's default thresholds for garbage collection, which the program raises while it starts.
_COLLECT_AFTER: Final = (700, 10, 10)

#: A container's memory is divided by this for one window; three of them are in memory.
_WINDOWS_PER_MEMORY: Final = 16
#: In bytes of a container's memory: a scan of a batch needs its tensor and the network's activations.
_BYTES_PER_BATCHED_SCAN: Final = 2**25


class WorkerProcess:
    """The state of one worker process.

    Attributes:
        settings: as read when the process started.
        embedded: whether this process scores an embedded run of its own.
        engine: connections of this process.
        decoder: threads that read and decode, and sandboxes for dangerous scans.
        progress: times of the last steps, for `nightread worker --health`.
        is_stopping: set when this process must end soon: its job is cut short, and the rest is given back.
        unknown_jobs: messages that named a job that this process knows nothing of.
        name: HOST:PID, as stored with leases and predictions.
    """

    def __init__(self, settings: Settings, ahead: Ahead | None = None) -> None:
        """Create the state of this process.

        Args:
            settings: of this process.
            ahead: a model that another thread is opening already.
        """
        keep_freed_memory()
        gc.freeze()  # modules and their objects stay: no need to collect garbage among them
        gc.set_threshold(*_COLLECT_AFTER)
        self.settings = settings
        self.embedded = False
        self.threads = settings.threads or count_cores()
        self._memory_bytes = read_memory_limit() or sys.maxsize  # read once: every job asks for it
        self.engine: Engine = make_engine(settings.database_url.get_secret_value())
        self.decoder = self._make_decoder()
        self.name = self.name_of(os.getpid())
        self.progress = find_progress()
        self.is_stopping = False
        self.unknown_jobs = 0
        self._scorers: dict[str, Scorer] = {}
        self._ahead = ahead
        self._opening = threading.Lock()  # two jobs of one process may need the same model at once

    def _make_decoder(self) -> Decoder:
        settings = self.settings
        limits = IsolationLimits(
            settings.decode_limit_s,
            settings.max_pixels,
            settings.max_file_bytes,
            settings.accepted,
            self._memory_bytes // 2,
        )
        return Decoder(self.threads, limits, settings.isolate)

    @staticmethod
    def name_of(pid: int) -> str:
        """Return HOST:PID for a process of this host."""
        return f"{socket.gethostname()}:{pid}"

    def begin_as_fork(self) -> None:
        """Adapt the inherited state to a fork, which works on one thread.

        Models stay open, and so does the engine, whose connections were closed before the fork.
        """
        self.name = self.name_of(os.getpid())
        self.threads = 1
        self.decoder = self._make_decoder()
        self._opening = threading.Lock()

    def find_scorer(self, run: RunInfo) -> Scorer:
        """Return the model of a run, opened and checked at its first use.

        Raises:
            ModelError: the bundle is missing on this machine, or must not be served.
            DeviceError: the requested device is not active.
        """
        with self._opening:
            if scorer := self._scorers.get(run.model_digest):
                return scorer
            bundle = load_bundle(find_bundle(run.model, self.settings.models_dir))
            if bundle.digest != run.model_digest:
                raise CardMismatch(
                    f"{run.model} on this worker is not the bundle that the run was made with: copy the right one to "
                    "NIGHTREAD_MODELS_DIR"
                )
            return self._open(bundle)

    def open_default(self) -> Bundle:
        """Open and check the model of a new run, and return its bundle.

        Raises:
            ModelError: the bundle is missing or damaged, or its scores are not reproduced here.
            WrongStage: the model is retired.
            DeviceError: the requested device is not active.
        """
        load = load_bundle if self._ahead is None else self._ahead.load
        bundle = choose_bundle(self.engine, self.settings, load=load).bundle
        self.open_bundle(bundle)
        return bundle

    def open_bundle(self, bundle: Bundle) -> Scorer:
        """Return a bundle opened and checked on this process's device.

        Raises:
            ModelError: the bundle must not be served.
            DeviceError: the requested device is not active.
        """
        with self._opening:
            return self._scorers.get(bundle.digest) or self._open(bundle)

    @property
    def device(self) -> str:
        """Device of the opened models, cpu or cuda; "" before the first."""
        return next((scorer.device for scorer in self._scorers.values()), "")

    @property
    def provider(self) -> str:
        """Execution provider of the opened models; "" before the first."""
        return next((scorer.provider for scorer in self._scorers.values()), "")

    def _open(self, bundle: Bundle) -> Scorer:
        # One inference thread: on a CPU the decoder's threads score, each one part of a batch.
        scorer = self._ahead.take_scorer(bundle) if self._ahead is not None else None
        scorer = scorer or Scorer(bundle, self.settings.device, 1)
        self._ahead = None
        self._scorers[scorer.digest] = scorer
        _log.info(
            "model %s ready on %s (%s), parity %.1e",
            scorer.card.reference, scorer.provider, scorer.runtime, scorer.parity,
        )  # fmt: skip
        return scorer

    def make_limits(self, run: RunInfo, scorer: Scorer) -> Limits:
        """Return the limits for jobs of a run; its own paths are the roots if no roots are set."""
        settings, memory = self.settings, self._memory_bytes
        return Limits(
            roots=settings.scan_roots
            or tuple(Path(settings.local_paths.to_local(decode_path(source))) for source in run.sources),
            max_file_bytes=settings.max_file_bytes,
            batch_size=min(settings.batch_size, max(1, memory // _BYTES_PER_BATCHED_SCAN)),
            window_bytes=max(1, memory // _WINDOWS_PER_MEMORY),
            scored_by_threads=scorer.device == "cpu",
            gated=bool(run.settings.get("gate", True)),
            archives=bool(run.settings.get("archives")),
            accession_key=settings.accession_key.get_secret_value().encode(),
            settle_s=float(run.settings.get("settle_s", 0.0)),
            path_map=settings.local_paths,
        )

    def close(self) -> None:
        """End threads, sandboxes and connections."""
        self.decoder.close()
        self.engine.dispose()


#: Keyed by process id, since a fork inherits a copy.
_PROCESSES: dict[int, WorkerProcess] = {}


def current_process(settings: Settings) -> WorkerProcess:
    """Return this process's state, created at the first call; never an inherited one."""
    pid = os.getpid()
    if pid not in _PROCESSES:
        _PROCESSES[pid] = WorkerProcess(settings)
    return _PROCESSES[pid]
