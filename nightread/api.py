"""The library: `nightread.open_model`, and one row for each scan that `Model.predict` is given.

    import nightread

    model = nightread.open_model("pneumonia-lite0")
    for row in model.predict(["chest.png"]):
        print(row.path, row.status, row.scores, row.decisions)

Rows come of the same functions as those of `nightread score`: reading, preprocessing, input gate, scores, decisions.
Neither a database nor a queue is used. Files are decoded in this process, without a time limit: a file that crashes
its decoder ends the process. `nightread score` survives such files.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Final, Literal, SupportsIndex

import numpy as np

from nightread.errors import DeviceFull
from nightread.inference.batch_scorer import BatchScorer
from nightread.inference.batch_tuner import LARGEST_PART
from nightread.inference.content import Content, decode_content, read_content, take_content
from nightread.inference.scorer import Scorer
from nightread.machine import count_cores
from nightread.model.bundle import CARD_FILE, Bundle, find_bundle, load_bundle
from nightread.model.card import Card
from nightread.reasons import Reason
from nightread.scan.acquisition import DicomUids
from nightread.scan.array import check_array
from nightread.scan.object_address import SCHEMES, is_address, spell_address
from nightread.scan.scan import Pixels
from nightread.settings import Settings, read_settings

#: A file was named by the one who may read it: it may lie anywhere.
_ROOTS: Final = (Path("/"), *(Path(f"{scheme}:") for scheme in SCHEMES))

#: A file's path or the address of an object, its bytes, or the pixels of a scan; see `Model.predict`.
ScanInput = str | os.PathLike[str] | bytes | Pixels


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of a row's scores.

    Attributes:
        model: name of the model bundle.
        version: version of the model bundle.
        digest: SHA-256 over model and card, 64 hexadecimal digits.
        preprocessing: version of the preprocessing.
        runtime: inference runtime and its version.
        provider: execution provider that ONNX Runtime really used.
        device: `cpu` or `cuda`.
    """

    model: str
    version: str
    digest: str
    preprocessing: str
    runtime: str
    provider: str
    device: str


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The outcome of one scan, as a run's row holds it.

    Attributes:
        path: as given; None for bytes and arrays.
        status: `scored`; `rejected`, where the file is at fault; `failed`, where the system is and it can be retried.
        reason: code of the reason why there are no scores; None where the scan is scored.
        text: the reason in words, with what is allowed and what to do; empty where the scan is scored.
        scores: score in [0, 1] by label; empty unless the scan is scored.
        decisions: decision by label, from the thresholds of the model's card; empty unless the scan is scored.
        gate_verdict: `passed`, or the reason why the input gate rejects the scan; None where the model has no gate,
            the scan could not be decoded, or the gate is off and would have had to look twice.
        distance: of the scan's embedding from the training scans, of which a typical one lies at 1; None where it was
            not measured.
        sha256: SHA-256 of the file's bytes, 64 hexadecimal digits; None for an array, or where reading failed.
        uids: study, series and instance UID of a DICOM file; None for other files.
        provenance: model, runtime and device.
    """

    path: str | os.PathLike[str] | None
    status: Literal["scored", "rejected", "failed"]
    reason: Reason | None
    text: str
    scores: Mapping[str, float]
    decisions: Mapping[str, str]
    gate_verdict: str | None
    distance: float | None
    sha256: str | None
    uids: DicomUids | None
    provenance: Provenance


class Model:
    """A model bundle opened on this machine's device; `open_model` makes one.

    Attributes:
        card: the bundle's card.
        provenance: what every row of this model says of its origin.
    """

    def __init__(self, bundle: Bundle, settings: Settings, *, gate: bool = True) -> None:
        """Open a bundle and check that this machine reproduces the scores that it was exported with.

        Args:
            bundle: read and checked.
            settings: device, threads, batch size, and the limits of files and pixels.
            gate: see `open_model`.

        Raises:
            ModelError: this machine must not serve the model.
            DeviceError: the device that was asked for is not active.
        """
        self._settings = settings
        self._threads = settings.threads or count_cores()
        self._gated = gate
        # One inference thread: on a CPU the threads that decode also score, each its own scans.
        self._scorer = scorer = Scorer(bundle, settings.device, 1)
        self.card: Card = bundle.card
        self.provenance = Provenance(
            self.card.name, self.card.version, bundle.digest, self.card.preprocessing_version, scorer.runtime,
            scorer.provider, scorer.device,
        )  # fmt: skip

    def predict(self, scans: Iterable[ScanInput], *, batch_size: int | None = None) -> Iterator[ScanResult]:
        """Score scans; yields one row for each, in their order, while the next ones are being decoded.

        Args:
            scans: paths or addresses (s3://BUCKET/KEY) of JPEG, PNG, TIFF or DICOM files, their bytes, or arrays:
                (H, W), gray, uint8 (0 is black, 255 white), uint16 (0 is black, white the largest value of the bits in
                use, as of a 16-bit PNG) or floating point (0.0 is black, 1.0 white). With NIGHTREAD_ARCHIVES=true also
                `ARCHIVE!MEMBER`. Any number of them, taken as they are needed; an array must not change before its row
                is there.
            batch_size: largest number of scans that are scored together; NIGHTREAD_BATCH_SIZE where None.

        Raises:
            TypeError: something else than a path, bytes or such an array was given, or one alone, not in a list.
            ValueError: `batch_size` is below 1.
            DeviceFull: the memory of the device does not suffice for a single scan.
        """
        if isinstance(scans, str | os.PathLike | bytes | np.ndarray):  # iterating would take its characters or rows
            raise TypeError(f"scans is a single {type(scans).__name__}; put it into a list")
        size = self._settings.batch_size if batch_size is None else batch_size
        if not isinstance(size, SupportsIndex):
            raise TypeError(f"batch_size is a {type(size).__name__}; it is a whole number of scans")
        if size < 1:
            raise ValueError(f"batch_size is {size}; it must be at least 1")
        return self._predict(iter(scans), size)

    def _predict(self, scans: Iterator[ScanInput], batch_size: int) -> Iterator[ScanResult]:
        batches = BatchScorer(self._scorer, batch_size, gated=self._gated)
        pool = ThreadPoolExecutor(self._threads, "nightread-predict")
        try:
            window = self._start(scans, batch_size, batches, pool)
            while window:
                upcoming = self._start(scans, batch_size, batches, pool)
                contents = []
                for part in window:
                    of_part, full = part.result()
                    if full is not None:
                        batches.reduce([content for _, content in of_part], full)
                    contents += of_part
                batches.score_rest([content for _, content in contents])
                yield from (self._to_result(scan, content) for scan, content in contents)
                window = upcoming
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(
        self, scans: Iterator[ScanInput], batch_size: int, batches: BatchScorer, pool: ThreadPoolExecutor
    ) -> "list[Future[_Part]]":
        """Take the next batch of scans and put it on the threads, a few scans on each."""
        window = list(islice(scans, batch_size))
        for scan in window:
            if isinstance(scan, np.ndarray):
                check_array(scan)
            elif not isinstance(scan, str | os.PathLike | bytes):
                raise TypeError(f"a {type(scan).__name__}; a scan is a path, the bytes of a file or an array")
        size = min(LARGEST_PART, ceil(len(window) / self._threads)) or 1
        parts = [window[start : start + size] for start in range(0, len(window), size)]
        return [pool.submit(self._decode, part, batches) for part in parts]

    def _decode(self, scans: Sequence[ScanInput], batches: BatchScorer) -> "_Part":
        """Read, decode and measure scans; a CPU scores them here too, a GPU waits for a whole batch."""
        contents = [self._decode_one(scan) for scan in scans]
        finish = batches.score_part if self._scorer.device == "cpu" else batches.measure
        full = finish(contents)
        return list(zip(scans, contents, strict=True)), full

    def _decode_one(self, scan: ScanInput) -> Content:
        spec, gate, max_pixels = self.card.input, self.card.gate, self._settings.max_pixels
        accepted = self._settings.accepted
        if isinstance(scan, np.ndarray):
            return decode_content(scan, spec, max_pixels, gate)
        max_bytes = self._settings.max_file_bytes
        if isinstance(scan, bytes):
            content = take_content(scan, max_bytes)
        else:
            path = spell_address(scan) if is_address(scan) else str(Path(scan).absolute())
            content = read_content(path, _ROOTS, max_bytes, archives=self._settings.archives)
        if content.reason is None:
            content.fill(decode_content(content.data, spec, max_pixels, gate, accepted))
        return content

    def _to_result(self, scan: ScanInput, content: Content) -> ScanResult:
        labels, scores, reason = self.card.labels, content.scores, content.reason
        decisions = self.card.decide(scores) if scores else ()
        status: Literal["scored", "rejected", "failed"] = "scored"
        if reason is not None:
            status = "rejected" if reason.is_rejection else "failed"
        return ScanResult(
            path=scan if isinstance(scan, str | os.PathLike) else None,
            status=status,
            reason=reason,
            text=content.text,
            scores=dict(zip(labels, scores, strict=False)),
            decisions=dict(zip(labels, decisions, strict=False)),
            gate_verdict=content.verdict,
            distance=content.distance,
            sha256=content.sha256 or None,
            uids=None if content.acquisition is None else content.acquisition.uids,
            provenance=self.provenance,
        )


#: The scans that one thread has decoded, and the device's error where its memory did not suffice for them.
_Part = tuple[list[tuple[ScanInput, Content]], DeviceFull | None]


def open_model(
    model: str | os.PathLike[str] = "", *, device: str | None = None, threads: int | None = None, gate: bool = True
) -> Model:
    """Open a model bundle and check that this machine reproduces the scores that it was exported with.

    Args:
        model: NAME or NAME@VERSION, looked for in NIGHTREAD_MODELS_DIR and among the bundles that ship; or a bundle's
            folder. Empty: the bundle that ships. The database is not asked which model is in production.
        device: `auto`, `cpu` or `cuda`; NIGHTREAD_DEVICE where None.
        threads: threads that decode and score; NIGHTREAD_THREADS where None, 0 for one on each core.
        gate: whether scans that the model's input gate rejects stay without scores.

    Raises:
        ModelError: the bundle is missing or damaged, or this machine must not serve it.
        DeviceError: the device that was asked for is not active.
        SettingsError: an argument or an environment variable has a value that is not allowed.
        TypeError: `model` is neither text nor a path, or `gate` is not a bool.
    """
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"model is a {type(model).__name__}; it is NAME, NAME@VERSION or a folder")
    if not isinstance(gate, bool):  # "no" would count as true
        raise TypeError(f"gate is a {type(gate).__name__}; it is True or False")
    settings = read_settings(device=device, threads=threads)
    folder = Path(model)
    if not (os.fspath(model) and os.path.isfile(folder / CARD_FILE)):  # noqa: PTH113  # a name may be too long for a file
        folder = find_bundle(os.fspath(model), settings.models_dir)
    return Model(load_bundle(folder), settings, gate=gate)
