"""Model bundles: a folder `<name>/<version>/` with `model.onnx`, `parity.npz` and `card.json`.

The card names the SHA-256 of both files, and carries the bundle's digest: the SHA-256 over the model's digest and
over the card's own bytes, in which the 64 digits of the digest count as zeros. So one changed byte in any of the three
files is found by reading the bundle alone. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from nightread.errors import CardMismatch, NightreadError
from nightread.model.card import Card
from nightread.scan.preprocessing import PREPROCESSING_VERSION, Tensor

MODEL_FILE: Final = "model.onnx"
PARITY_FILE: Final = "parity.npz"
CARD_FILE: Final = "card.json"

#: Bundles that travel with the package.
SHIPPED_DIR = Path(__file__).parents[1] / "bundles"
#: The one that is used where no other is named.
DEFAULT_MODEL = "pneumonia-lite0@1"

_NO_DIGEST = "0" * 64
_DIGEST_FIELD = re.compile(rb'("digest": ")[0-9a-f]{64}(")')


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model bundle whose every byte has been checked.

    Attributes:
        card: what the network is.
        model: the ONNX file.
        parity_inputs: (N, H, W, C) float32, prepared inputs.
        parity_scores: (N, labels) float32, the scores that the network's source gave them.
    """

    card: Card
    model: bytes
    parity_inputs: Tensor
    parity_scores: npt.NDArray[np.float32]

    @property
    def digest(self) -> str:
        """SHA-256 over model and card, 64 hexadecimal digits."""
        return self.card.digest


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check that its parts are whole and fit together.

    Raises:
        CardMismatch: a file is missing or has changed, the card is malformed, or this program does not know the
            preprocessing version that the network was trained with.
    """
    return _check_parts(*_read_parts(folder), folder)


def copy_bundle(source: Path, models_dir: Path) -> tuple[Bundle, Path]:
    """Copy a checked bundle to `<models_dir>/<name>/<version>`; the very bytes that were checked are written.

    Returns:
        The bundle, and its folder there; where the same bundle is there already, nothing is written.

    Raises:
        CardMismatch: the bundle is not whole, or another one has its name and version.
        NightreadError: the folder cannot be written.
    """
    parts = _read_parts(source)
    bundle = _check_parts(*parts, source)
    folder = models_dir / bundle.card.name / bundle.card.version
    known = [found for found in list_bundles(models_dir) if _shown(found) == _shown(folder)]
    for found in known:
        if (digest := _read_digest(found)) != bundle.digest:
            raise CardMismatch(
                f"there is another model bundle {bundle.card.reference} on this machine, {digest[:12] or 'damaged'}; "
                "bundles never change: give the new one another version, or remove the folder of a damaged one"
            )
    if known:
        return bundle, known[0]
    _write_parts(folder, dict(zip((CARD_FILE, MODEL_FILE, PARITY_FILE), parts, strict=True)))
    return load_bundle(folder), folder


def write_bundle(
    folder: Path, *, model: bytes, parity_inputs: Tensor, parity_scores: npt.NDArray[np.float32], card: dict[str, Any]
) -> Bundle:
    """Write a new bundle and read it back.

    Args:
        folder: `<models>/<name>/<version>`; must not exist or be empty. It appears whole or not at all.
        model: the ONNX file.
        parity_inputs: (N, H, W, C) float32.
        parity_scores: (N, labels) float32.
        card: the fields of `Card` except `digest` and `files`, which are computed here.

    Raises:
        CardMismatch: the card is malformed or does not fit, or a bundle is there already: bundles are immutable.
        NightreadError: the folder cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CardMismatch(
            f"there is a model bundle in {_shown(folder)} already; bundles never change: use another version"
        )
    buffer = BytesIO()
    np.savez_compressed(buffer, inputs=parity_inputs, scores=parity_scores)
    parity = buffer.getvalue()
    files = {MODEL_FILE: hashlib.sha256(model).hexdigest(), PARITY_FILE: hashlib.sha256(parity).hexdigest()}
    try:
        checked = Card.model_validate({**card, "digest": _NO_DIGEST, "files": files})
    except ValidationError as error:
        raise CardMismatch(f"the card does not hold: {'; '.join(_list_faults(error))}") from None
    blank = (checked.model_dump_json(indent=2) + "\n").encode()
    card_bytes = _DIGEST_FIELD.sub(rb"\g<1>" + compute_digest(model, blank).encode() + rb"\g<2>", blank, count=1)
    _check_parts(card_bytes, model, parity, folder)
    _write_parts(folder, {MODEL_FILE: model, PARITY_FILE: parity, CARD_FILE: card_bytes})
    return load_bundle(folder)


def list_card_faults(card: Mapping[str, Any]) -> list[str]:
    """Return all that is wrong with a card before `write_bundle` has computed `digest` and `files` for it."""
    files = {MODEL_FILE: _NO_DIGEST, PARITY_FILE: _NO_DIGEST}
    try:
        checked = Card.model_validate({**card, "digest": _NO_DIGEST, "files": files})
    except ValidationError as error:
        return _list_faults(error)
    if checked.preprocessing_version != PREPROCESSING_VERSION:
        return [f"preprocessing_version: {checked.preprocessing_version}; this program has {PREPROCESSING_VERSION}"]
    return []


def compute_digest(model: bytes, card: bytes) -> str:
    """Return the bundle's digest over the ONNX file and the card's bytes, the card's own digest counted as zeros."""
    blank = _DIGEST_FIELD.sub(rb"\g<1>" + _NO_DIGEST.encode() + rb"\g<2>", card, count=1)
    return hashlib.sha256(hashlib.sha256(model).digest() + blank).hexdigest()


def find_bundle(reference: str, models_dir: Path) -> Path:
    """Return the folder of NAME or NAME@VERSION; of a name alone, the newest version by its card's date.

    Args:
        reference: NAME[@VERSION]; empty for the bundle that ships.
        models_dir: the operator's bundles, looked at before those that ship.

    Raises:
        CardMismatch: there is no such bundle; the message lists those that are there.
    """
    name, _, version = (reference or DEFAULT_MODEL).partition("@")
    folders = [folder for folder in list_bundles(models_dir) if folder.parent.name == name]
    if version:
        folders = [folder for folder in folders if folder.name == version]
    if folders:
        return folders[0] if version else max(folders, key=_read_created_at)
    known = ", ".join(sorted(f"{folder.parent.name}@{folder.name}" for folder in list_bundles(models_dir))) or "none"
    raise CardMismatch(f"there is no model bundle {reference or DEFAULT_MODEL}; there are: {known} (NIGHTREAD_MODEL, "
                       "NIGHTREAD_MODELS_DIR)")  # fmt: skip


def list_bundles(models_dir: Path) -> list[Path]:
    """Return the folders of all bundles, the operator's before those that ship, sorted by name and version."""
    cards = (card for base in (models_dir, SHIPPED_DIR) for card in sorted(base.glob(f"*/*/{CARD_FILE}")))
    return [card.parent for card in cards if not card.parent.name.startswith(".")]


def _read_parts(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Return the bytes of card, model and parity file."""
    try:
        card, model, parity = ((folder / name).read_bytes() for name in (CARD_FILE, MODEL_FILE, PARITY_FILE))
    except OSError as error:
        name = Path(error.filename).name if error.filename else "a file"
        raise CardMismatch(
            f"the model bundle {_shown(folder)} is incomplete: {name} cannot be read ({error.strerror}); "
            "export or import it again"
        ) from None
    return card, model, parity


def _write_parts(folder: Path, parts: Mapping[str, bytes]) -> None:
    """Write a bundle's files; the folder appears whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")  # hidden: `list_bundles` passes over it
    try:
        unfinished.mkdir(parents=True)
        for name, content in parts.items():
            (unfinished / name).write_bytes(content)
        unfinished.rename(folder)
    except OSError as error:
        raise NightreadError(
            f"the model bundle {_shown(folder)} cannot be written to {folder.parent.parent}: {error.strerror}; make "
            "room there, or name another folder (NIGHTREAD_MODELS_DIR)"
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_parts(card_bytes: bytes, model: bytes, parity: bytes, folder: Path) -> Bundle:
    card = _parse_card(card_bytes, folder)
    digests = {str(name): digest for name, digest in card.files.items()}
    for name, content in ((MODEL_FILE, model), (PARITY_FILE, parity)):
        if hashlib.sha256(content).hexdigest() != digests.get(name):
            raise CardMismatch(
                f"{name} of the model bundle {_shown(folder)} is not the file that its card describes; "
                "it was changed or damaged: export or import the bundle again"
            )
    if compute_digest(model, card_bytes) != card.digest:
        raise CardMismatch(
            f"the card of the model bundle {_shown(folder)} has changed since it was written; "
            "export or import the bundle again"
        )
    if card.preprocessing_version != PREPROCESSING_VERSION:
        raise CardMismatch(
            f"{card.reference} was trained with preprocessing version {card.preprocessing_version}; "
            f"this program has version {PREPROCESSING_VERSION}: use the release of Nightread that the bundle names"
        )
    inputs, scores = _read_parity(parity, card, folder)
    return Bundle(card, model, inputs, scores)


def _parse_card(card_bytes: bytes, folder: Path) -> Card:
    if not _DIGEST_FIELD.search(card_bytes):
        raise CardMismatch(
            f"the card of the model bundle {_shown(folder)} holds no digest: import it, or export it again"
        )
    try:
        return Card.model_validate_json(card_bytes)
    except ValidationError as error:
        raise CardMismatch(
            f"the card of the model bundle {_shown(folder)} does not hold: {'; '.join(_list_faults(error))}"
        ) from None


def _read_parity(parity: bytes, card: Card, folder: Path) -> tuple[Tensor, npt.NDArray[np.float32]]:
    try:
        with np.load(BytesIO(parity), allow_pickle=False) as arrays:
            inputs, scores = arrays["inputs"], arrays["scores"]
    except (KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise CardMismatch(f"{PARITY_FILE} of {_shown(folder)} holds no arrays `inputs` and `scores`") from None
    expected_scores = (len(inputs), len(card.labels))
    if inputs.shape[1:] != card.input.shape or scores.shape != expected_scores or not len(inputs):
        raise CardMismatch(
            f"{PARITY_FILE} of {_shown(folder)} holds inputs {inputs.shape} and scores {scores.shape}; "
            f"the card asks for (N, {', '.join(map(str, card.input.shape))}) and (N, {len(card.labels)}), N from 1 on"
        )
    if inputs.dtype != np.float32 or scores.dtype != np.float32:
        raise CardMismatch(
            f"{PARITY_FILE} of {_shown(folder)} holds {inputs.dtype} and {scores.dtype}; both must be float32"
        )
    if not (np.isfinite(inputs).all() and np.isfinite(scores).all()):
        raise CardMismatch(f"{PARITY_FILE} of {_shown(folder)} holds values that are not finite")
    return inputs, scores


def _read_created_at(folder: Path) -> datetime:
    try:
        created_at = datetime.fromisoformat(json.loads((folder / CARD_FILE).read_bytes())["created_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return datetime.min.replace(tzinfo=UTC)  # loading this bundle will say what is wrong with it
    return created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC)


def _read_digest(folder: Path) -> str:
    """Return the digest of a bundle; "" where it is not whole."""
    try:
        return load_bundle(folder).digest
    except CardMismatch:
        return ""


def _list_faults(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(map(str, fault['loc'])) or 'card'}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors(include_input=False, include_url=False)
    ]


def _shown(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
