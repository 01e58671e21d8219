"""Import into the registry: a bundle from elsewhere, or an ONNX file with a hand-written card.

An ONNX file comes without its Keras network. So three checks are possible: the graph is valid, it fits its card, and
ONNX Runtime returns equal scores for a scan in any batch. These scores become the bundle's parity file, and the card
says so.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine

from db.engine import reading, write
from db.registry import check_identity, find_model, register_model
from nightread.errors import CardMismatch, DatabaseError, DatabaseUnavailable, NightreadError, ScanError, WrongValue
from nightread.inference.bundle_check import BATCH_SIZES, measure_batches
from nightread.inference.scorer import Scorer, Scores
from nightread.inference.session import ORT_ERRORS, OpenSession, open_session, show_error
from nightread.inference.trial import try_model
from nightread.machine import count_cores
from nightread.model.bundle import (
    CARD_FILE,
    MODEL_FILE,
    MOST_BYTES,
    Bundle,
    copy_bundle,
    list_bundles,
    list_card_faults,
    load_bundle,
    write_bundle,
)
from nightread.model.card import Card
from nightread.regular_file import read_regular_file
from nightread.scan.drawn_chest import draw_chest
from nightread.scan.formats import Format
from nightread.scan.preprocessing import InputSpec, Tensor, prepare, read_and_prepare
from nightread.scan.scan import Scan
from nightread.settings import Device, Settings
from worker.errors import WrongPaths
from worker.registry.choose import describe_model

#: Default of a hand-written card; float32 sums in another order differ by about 1e-7.
_PARITY_TOLERANCE: Final = 1e-5
#: Inputs of a parity file: drawn ones where none are given, and the most of those that are.
_DRAWN_INPUTS: Final = 8
_MOST_INPUTS: Final = 32
#: Height and width of a drawn chest, larger than any network's input in use.
_DRAWN_PX: Final = (600, 720)
#: Fields of a card that are always computed, even if the card was copied from another bundle.
_COMPUTED: Final = ("digest", "files")


@dataclass(frozen=True, slots=True)
class Imported:
    """Result of an import.

    Attributes:
        bundle: the bundle in the folder of bundles.
        folder: its folder.
        is_new: whether the database had no row for it before.
    """

    bundle: Bundle
    folder: Path
    is_new: bool


def import_model(
    engine: Engine, settings: Settings, source: Path, *, card: Path | None = None, inputs: Sequence[Path] = ()
) -> Imported:
    """Import a bundle's folder, or an ONNX file with its card, as a candidate.

    Args:
        engine: the database, its schema checked.
        settings: `models_dir`, and the device to try a bundle on.
        source: a bundle's folder, or an ONNX file.
        card: of an ONNX file, JSON; see `import_onnx`.
        inputs: scans, or folders of them, whose prepared pixels an ONNX file's bundle carries as its parity inputs;
            empty: drawn chests.

    Raises:
        WrongPaths: there is no such source, or an input cannot be read.
        WrongValue: source, `card` and `inputs` do not go together.
        NightreadError: see `import_bundle` and `import_onnx`.
    """
    if not source.exists():
        raise WrongPaths(f"there is no {source}: name a bundle's folder or an ONNX file")
    if source.is_dir() and (card or inputs):
        raise WrongValue(f"{source} is a folder; a bundle has its own card and inputs: leave out --card, --inputs")
    if source.is_dir():
        return import_bundle(engine, settings, source)
    if card is None:
        raise WrongValue(
            f"{source} is not a bundle's folder; an ONNX file needs --card card.json with what "
            "`nightread models show --json` prints, without digest and files"
        )
    return import_onnx(
        engine, settings, source, card, lambda spec: make_parity_inputs(spec, inputs, settings.max_pixels)
    )


def make_parity_inputs(spec: InputSpec, paths: Sequence[Path], max_pixels: int) -> Tensor:
    """Return the prepared inputs of a parity file, (N, H, W, C) float32: of given scans, else of drawn chests.

    Args:
        spec: shape and value range of the network's input.
        paths: scans, or folders of them; of more than 32 scans the first 32 are used.
        max_pixels: largest width times height that is decoded.

    Raises:
        WrongPaths: there is no scan, or a file is none.
    """
    files = sorted(file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    if paths and not files:
        raise WrongPaths(f"there is no file in {', '.join(map(str, paths))}: name scans with --inputs")
    prepared = []
    for file in files[:_MOST_INPUTS]:
        try:
            prepared.append(read_and_prepare(file.read_bytes(), spec, max_pixels=max_pixels)[0])
        except ScanError as error:
            raise WrongPaths(f"{file} is not a scan: {error}; leave it out of --inputs") from None
        except OSError as error:
            raise WrongPaths(f"{file} cannot be read: {error.strerror}") from None
    for seed in range(0 if files else _DRAWN_INPUTS):
        drawn = draw_chest(seed, *_DRAWN_PX, has_opacity=seed % 2 == 1)
        height_px, width_px = drawn.shape
        prepared.append(prepare(Scan(drawn, 0.0, 255.0, Format.PNG, width_px, height_px), spec))
    return np.stack(prepared)


def import_bundle(engine: Engine, settings: Settings, source: Path) -> Imported:
    """Copy a bundle to the folder of bundles and register it as a candidate; repeating it changes nothing.

    Args:
        engine: the database, its schema checked.
        settings: `models_dir`, and the device that tries the bundle.
        source: folder of the bundle.

    Raises:
        ModelError: the bundle is incomplete, its scores are not reproduced here, or its name and version are taken.
        DatabaseError: the database has another digest for its name and version.
        NightreadError: the folder of bundles cannot be written.
    """
    bundle = load_bundle(source)
    with reading(engine) as connection:
        check_identity(connection, bundle.card.name, bundle.card.version, bundle.digest)
    if faults := try_model(bundle.model, bundle.card):
        raise CardMismatch(f"{bundle.card.reference} cannot be served: {'; '.join(faults)}")
    Scorer(bundle, settings.device, settings.threads or count_cores())
    before = set(list_bundles(settings.models_dir))
    copied, folder = copy_bundle(source, settings.models_dir)
    return _register(engine, copied, folder, is_written=folder not in before)


def import_onnx(
    engine: Engine, settings: Settings, model_file: Path, card_file: Path, make_inputs: Callable[[InputSpec], Tensor]
) -> Imported:
    """Make a bundle from an ONNX file and a card, and register it as a candidate.

    Args:
        engine: the database, its schema checked.
        settings: `models_dir`.
        model_file: ONNX file.
        card_file: JSON with the fields of `nightread.model.card.Card`; `digest` and `files` are computed, `created_at`
            and `parity_tolerance` have defaults.
        make_inputs: returns (N, H, W, C) float32, the prepared inputs of the parity file.

    Raises:
        CardMismatch: names every fault of card and graph.
        DatabaseError: the database has the name and version already.
        NightreadError: a file cannot be read or written.
    """
    model, fields = _read(model_file, MOST_BYTES[MODEL_FILE]), _read_card(card_file)
    faults = [f"card: {fault}" for fault in list_card_faults(fields)]
    card = None if faults else Card.model_validate({**fields, **_placeholders()})
    faults += [f"graph: {fault}" for fault in try_model(model, card, standard_only=True)]
    if faults or card is None:
        raise CardMismatch(f"{model_file.name} and {card_file.name} make no bundle: {'; '.join(faults)}")
    session = open_session(model, Device.CPU, settings.threads or count_cores())
    _refuse_known(engine, card)
    inputs = make_inputs(card.input)
    folder = settings.models_dir / card.name / card.version
    written = write_bundle(
        folder,
        model=model,
        parity_inputs=inputs,
        parity_scores=_score(session, card, inputs),
        card={**fields, "limitations": [*fields["limitations"], _tell_parity(session, len(inputs))]},
    )
    return _register(engine, written, folder, is_written=True)


def _register(engine: Engine, bundle: Bundle, folder: Path, *, is_written: bool) -> Imported:
    def work(connection: Connection) -> bool:
        return register_model(connection, describe_model(bundle))

    try:
        return Imported(bundle, folder, write(engine, work))
    except DatabaseUnavailable:
        raise  # the row may have been written; repeating the import finds out
    except DatabaseError:
        if is_written:  # another import has taken the name and version meanwhile
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _refuse_known(engine: Engine, card: Card) -> None:
    """Check that the name and version are free: every new bundle has a digest of its own."""
    with reading(engine) as connection:
        stored = find_model(connection, card.name, card.version)
    if stored is not None:
        raise CardMismatch(
            f"the database has {card.reference} already, with the digest {stored.digest[:12]}; bundles never change: "
            "give this one another version in its card, or import the bundle's folder from where it was first imported"
        )


def _read(file: Path, most_bytes: int) -> bytes:
    try:
        return read_regular_file(file, most_bytes)
    except OSError as error:
        raise NightreadError(f"{file} cannot be read: {error.strerror}") from None


def _read_card(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(_read(file, MOST_BYTES[CARD_FILE]))
    except (ValueError, RecursionError):
        raise CardMismatch(
            f"{file.name} is no JSON: write it like `nightread models show --json` prints a card"
        ) from None
    if not isinstance(fields, dict):
        raise CardMismatch(f"{file.name} holds no JSON object: write it like `nightread models show --json` prints one")
    given = {name: value for name, value in fields.items() if name not in _COMPUTED}
    defaults = {
        "created_at": datetime.now(UTC).replace(microsecond=0).isoformat(), "parity_tolerance": _PARITY_TOLERANCE,
    }  # fmt: skip
    return {**defaults, **given}


def _placeholders() -> dict[str, Any]:
    """Return stand-ins for the computed fields, so that the card can be validated before its bundle is written."""
    return {"digest": "0" * 64, "files": {"model.onnx": "0" * 64, "parity.npz": "0" * 64}}


def _score(session: OpenSession, card: Card, inputs: Tensor) -> Scores:
    """Return the scores of the parity file, after a check that they do not depend on the batch.

    Args:
        session: of the model.
        card: its labels and parity tolerance.
        inputs: (N, H, W, C) float32.

    Returns:
        (N, labels) float32.

    Raises:
        CardMismatch: a score lies outside [0, 1], or depends on the batch.
    """
    try:
        scores: Scores = np.concatenate([session.score(scan[np.newaxis]) for scan in inputs])
        measured_batches = list(measure_batches(session.score, inputs, scores))
    except ORT_ERRORS as error:
        raise CardMismatch(f"{card.reference} does not score its inputs: {show_error(error)}") from None
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        raise CardMismatch(
            f"{card.reference} returns scores from {scores.min():.4g} to {scores.max():.4g}; they must lie in [0, 1]: "
            "export the network with its sigmoid or softmax"
        )
    for measured in measured_batches:
        if not measured.difference <= card.parity_tolerance:
            raise CardMismatch(
                f"the scores of {card.reference} differ by {measured.difference:.2g} {measured.where} from those of "
                f"single scans; its card allows {card.parity_tolerance:.2g} (tried: {', '.join(map(str, BATCH_SIZES))})"
            )
    return scores


def _tell_parity(session: OpenSession, count: int) -> str:
    return (
        f"Parity is against {session.runtime} on the importing machine, over {count} inputs, and not against the "
        "network that the ONNX file was made from."
    )
