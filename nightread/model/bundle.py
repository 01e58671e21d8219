"""Model bundles: a folder `<name>/<version>/` with `model.onnx`, `parity.npz` and `card.json`.

The card holds the SHA-256 of both files and the bundle's digest, the SHA-256 over the model's digest and the card's
own bytes with the 64 digits of that digest set to zero. A changed byte in any of the three files is therefore detected
by reading the bundle alone. Nothing is unpickled.
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
from pydantic_core import PydanticSerializationError

from nightread.errors import CardMismatch, NightreadError
from nightread.field_faults import list_faults
from nightread.model.card import NAME_PATTERN, Card
from nightread.regular_file import read_regular_file
from nightread.scan.preprocessing import KNOWN_VERSIONS, SHOWN_VERSIONS, Tensor

MODEL_FILE: Final = "model.onnx"
PARITY_FILE: Final = "parity.npz"
CARD_FILE: Final = "card.json"

#: Bundles that ship with the package.
SHIPPED_DIR = Path(__file__).parents[1] / "bundles"
#: The bundle that is used if no other is named.
DEFAULT_MODEL = "pneumonia-lite0@5"

#: Largest size of each file: of a model that of protocol buffers, of a parity file also that of its arrays.
MOST_BYTES: Final = {MODEL_FILE: 2**31, PARITY_FILE: 2**30, CARD_FILE: 2**24}

_NO_DIGEST = "0" * 64
#: Characters of a wrong name that are shown.
_SHOWN: Final = 60
_DIGEST_FIELD = re.compile(rb'("digest": ")[0-9a-f]{64}(")')


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model bundle whose digests have been verified.

    Attributes:
        card: description of the network.
        model: content of the ONNX file.
        parity_inputs: (N, H, W, C) float32, prepared inputs.
        parity_scores: (N, labels) float32, the source network's scores for these inputs.
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
    """Read a bundle and check that its parts are complete and consistent.

    Raises:
        CardMismatch: a file is missing or was changed, the card is malformed, or the network was trained with another
            preprocessing version than this program's.
    """
    return _check_parts(*_read_parts(folder), folder)


def copy_bundle(source: Path, models_dir: Path) -> tuple[Bundle, Path]:
    """Check a bundle and copy it to `<models_dir>/<name>/<version>`; the checked bytes are written.

    Returns:
        The bundle, and its folder there. If that bundle exists already, nothing is written.

    Raises:
        CardMismatch: the bundle is not intact, or another one has its name and version.
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


def find_new_folder(models_dir: Path, name: str, version: str) -> Path:
    """Return the folder of a bundle that does not exist yet.

    Raises:
        CardMismatch: a card takes no such name or version, or the bundle is there.
    """
    for field, value in (("name", name), ("version", version)):
        if not re.fullmatch(NAME_PATTERN, value):
            raise CardMismatch(
                f"{value[:_SHOWN]!r} cannot be the {field} of a model bundle; allowed are 1 to 64 small letters, "
                "digits, '.', '_' and '-', a letter or digit first"
            )
    folder = models_dir / name / version
    if folder.exists() and any(folder.iterdir()):
        raise CardMismatch(
            f"{models_dir} holds a model bundle {name}@{version} already; bundles never change: name another --version"
        )
    return folder


def write_bundle(
    folder: Path, *, model: bytes, parity_inputs: Tensor, parity_scores: npt.NDArray[np.float32], card: dict[str, Any]
) -> Bundle:
    """Write a new bundle and read it back.

    Args:
        folder: `<models>/<name>/<version>`; must not exist or be empty. It is created atomically.
        model: content of the ONNX file.
        parity_inputs: (N, H, W, C) float32.
        parity_scores: (N, labels) float32.
        card: the fields of `Card` except `digest` and `files`, which are computed here.

    Raises:
        CardMismatch: the card is malformed or does not fit, or the folder holds a bundle: bundles are immutable.
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
    if faults := list_card_faults(card):
        raise CardMismatch(f"the card is not valid: {'; '.join(faults)}")
    checked = Card.model_validate({**card, "digest": _NO_DIGEST, "files": files})
    blank = (checked.model_dump_json(indent=2) + "\n").encode()
    card_bytes = _DIGEST_FIELD.sub(rb"\g<1>" + compute_digest(model, blank).encode() + rb"\g<2>", blank, count=1)
    _check_parts(card_bytes, model, parity, folder)
    _write_parts(folder, {MODEL_FILE: model, PARITY_FILE: parity, CARD_FILE: card_bytes})
    return load_bundle(folder)


def list_card_faults(card: Mapping[str, Any]) -> list[str]:
    """Return the faults of a card to which `write_bundle` has not yet added `digest` and `files`."""
    files = {MODEL_FILE: _NO_DIGEST, PARITY_FILE: _NO_DIGEST}
    try:
        checked = Card.model_validate({**card, "digest": _NO_DIGEST, "files": files})
    except ValidationError as error:
        return list_faults(error, "the card")
    try:
        checked.model_dump_json()
    except PydanticSerializationError:  # of JSON with an escaped half, or of a name that is not UTF-8
        return ["the card: a text holds half of a character (a lone surrogate); write it again"]
    if checked.preprocessing_version not in KNOWN_VERSIONS:
        return [f"preprocessing_version: {checked.preprocessing_version}; this program has {SHOWN_VERSIONS}"]
    return []


def compute_digest(model: bytes, card: bytes) -> str:
    """Return the bundle's digest over the ONNX file and the card's bytes, with the card's own digest set to zeros."""
    blank = _DIGEST_FIELD.sub(rb"\g<1>" + _NO_DIGEST.encode() + rb"\g<2>", card, count=1)
    return hashlib.sha256(hashlib.sha256(model).digest() + blank).hexdigest()


def find_bundle(reference: str, models_dir: Path) -> Path:
    """Return the folder of NAME@VERSION, or of NAME in its newest version by the card's date.

    Args:
        reference: NAME[@VERSION]; empty for the shipped bundle.
        models_dir: the operator's bundles, which take precedence over shipped ones.

    Raises:
        CardMismatch: there is no such bundle, and the message lists the available ones; or its card has another name.
    """
    name, _, version = (reference or DEFAULT_MODEL).partition("@")
    folders = [folder for folder in list_bundles(models_dir) if folder.parent.name == name]
    if version:
        folders = [folder for folder in folders if folder.name == version]
    if folders:
        folder = folders[0] if version else max(folders, key=_read_created_at)
        _refuse_renamed(folder)
        return folder
    known = ", ".join(sorted(f"{folder.parent.name}@{folder.name}" for folder in list_bundles(models_dir))) or "none"
    raise CardMismatch(
        f"there is no model bundle {reference or DEFAULT_MODEL}; there are: {known} (NIGHTREAD_MODEL, "
        "NIGHTREAD_MODELS_DIR)"
    )


def list_bundles(models_dir: Path) -> list[Path]:
    """Return the folders of all bundles, the operator's before the shipped ones, each sorted by name and version."""
    cards = (card for base in (models_dir, SHIPPED_DIR) for card in sorted(base.glob(f"*/*/{CARD_FILE}")))
    return [card.parent for card in cards if not card.parent.name.startswith(".")]


def _read_parts(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Return the contents of the card, the model and the parity file."""
    try:
        card, model, parity = (
            read_regular_file(folder / name, MOST_BYTES[name]) for name in (CARD_FILE, MODEL_FILE, PARITY_FILE)
        )
    except OSError as error:
        name = Path(error.filename).name if error.filename else "a file"
        raise CardMismatch(
            f"the model bundle {_shown(folder)} is incomplete: {name} cannot be read ({error.strerror}); "
            "export or import it again"
        ) from None
    return card, model, parity


def _write_parts(folder: Path, parts: Mapping[str, bytes]) -> None:
    """Write a bundle's files; the folder is created atomically.

    Workers of other users read it, whatever the umask: it holds no path and no identity.
    """
    new = [parent for parent in (folder.parent, folder.parent.parent) if not parent.exists()]
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")  # hidden: `list_bundles` skips it
    try:
        unfinished.mkdir(parents=True)
        for name, content in parts.items():
            (unfinished / name).write_bytes(content)
            (unfinished / name).chmod(0o644)
        for made in (unfinished, *new):
            made.chmod(0o755)
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
            f"the card of the model bundle {_shown(folder)} was changed after it was written; "
            "export or import the bundle again"
        )
    if card.preprocessing_version not in KNOWN_VERSIONS:
        raise CardMismatch(
            f"{card.reference} was trained with preprocessing version {card.preprocessing_version}; "
            f"this program has {SHOWN_VERSIONS}: use the release of Nightread that the bundle names"
        )
    inputs, scores = _read_parity(parity, card, folder)
    return Bundle(card, model, inputs, scores)


def _parse_card(card_bytes: bytes, folder: Path) -> Card:
    if not _DIGEST_FIELD.search(card_bytes):
        raise CardMismatch(
            f"the card of the model bundle {_shown(folder)} has no digest: import the bundle, or export it again"
        )
    try:
        return Card.model_validate_json(card_bytes)
    except ValidationError as error:
        raise CardMismatch(
            f"the card of the model bundle {_shown(folder)} is not valid: {'; '.join(list_faults(error, 'the card'))}"
        ) from None


def _read_parity(parity: bytes, card: Card, folder: Path) -> tuple[Tensor, npt.NDArray[np.float32]]:
    try:
        inputs, scores = _unpack(parity)
    except Exception:  # noqa: BLE001  # the boundary to untrusted bytes: zip, deflate and numpy's header may all be wrong
        raise CardMismatch(f"{PARITY_FILE} of {_shown(folder)} holds no arrays `inputs` and `scores`") from None
    if not inputs.ndim or not scores.ndim:
        raise CardMismatch(f"{PARITY_FILE} of {_shown(folder)} holds single numbers; it must hold inputs and scores")
    expected_scores = (len(inputs), len(card.labels))
    if inputs.shape[1:] != card.input.shape or scores.shape != expected_scores or not len(inputs):
        raise CardMismatch(
            f"{PARITY_FILE} of {_shown(folder)} holds inputs {inputs.shape} and scores {scores.shape}; "
            f"the card requires (N, {', '.join(map(str, card.input.shape))}) and (N, {len(card.labels)}), N >= 1"
        )
    if inputs.dtype != np.float32 or scores.dtype != np.float32:
        raise CardMismatch(
            f"{PARITY_FILE} of {_shown(folder)} holds {inputs.dtype} and {scores.dtype}; both must be float32"
        )
    if not (np.isfinite(inputs).all() and np.isfinite(scores).all()):
        raise CardMismatch(f"{PARITY_FILE} of {_shown(folder)} holds values that are not finite")
    return inputs, scores


def _unpack(parity: bytes) -> tuple[Any, Any]:
    unpacked = sum(member.file_size for member in zipfile.ZipFile(BytesIO(parity)).infolist())
    if unpacked > MOST_BYTES[PARITY_FILE]:
        raise ValueError("a bomb")
    with np.load(BytesIO(parity), allow_pickle=False) as arrays:
        return arrays["inputs"], arrays["scores"]


def _refuse_renamed(folder: Path) -> None:
    """Check that the folder's name is the card's: a copy under another version would be served as that version."""
    fields = _read_fields(folder)
    said = f"{fields.get('name')}/{fields.get('version')}"
    if {"name", "version"} <= fields.keys() and said != _shown(folder):
        raise CardMismatch(
            f"the card of the model bundle {_shown(folder)} says {said}: rename the folder to that, or import it again"
        )


def _read_created_at(folder: Path) -> datetime:
    try:
        created_at = datetime.fromisoformat(_read_fields(folder)["created_at"])
    except (ValueError, KeyError, TypeError):
        return datetime.min.replace(tzinfo=UTC)  # loading this bundle reports its fault
    return created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC)


def _read_fields(folder: Path) -> dict[str, Any]:
    """Return the fields of a card that is not checked; none of one that cannot be read, whose fault loading reports."""
    try:
        fields = json.loads(read_regular_file(folder / CARD_FILE, MOST_BYTES[CARD_FILE]))
    except (OSError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _read_digest(folder: Path) -> str:
    """Return the digest of a bundle; "" if it is damaged."""
    try:
        return load_bundle(folder).digest
    except CardMismatch:
        return ""


def _shown(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
