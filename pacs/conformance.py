"""The tables of the conformance statement, `docs/dicom-conformance.md`, from what the program really negotiates."""

from collections.abc import Iterable, Sequence

from pydicom import uid

from nightread.scan.dicom_file import ENCAPSULATED_NATIVE, JPEG_XL
from pacs import destination, listener
from pacs.socket_guard import MAX_PDU_BYTES

#: Names of transfer syntaxes that are newer than pydicom's list.
_NEW = {
    str(ENCAPSULATED_NATIVE): "Encapsulated Uncompressed Explicit VR Little Endian",
    **dict(zip(map(str, JPEG_XL), ("JPEG XL Lossless", "JPEG XL JPEG Recompression", "JPEG XL"), strict=True)),
}


def describe_tables() -> dict[str, str]:
    """Return the tables in Markdown by their headings."""
    return {
        "Storage classes that are received": _write_table(("class", "UID"), map(_name, listener.STORAGE_CLASSES)),
        "Transfer syntaxes that are received": _write_table(("syntax", "UID"), map(_name, listener.TRANSFER_SYNTAXES)),
        "Storage classes that are sent": _write_table(("class", "UID"), map(_name, destination.CLASSES)),
        "Transfer syntaxes that are sent": _write_table(("syntax", "UID"), map(_name, destination.SYNTAXES)),
        "Limits": _write_table(
            ("limit", "value"),
            [
                ("PDU that is received", f"{MAX_PDU_BYTES:,} bytes"),
                ("asynchronous operations", "none"),
                ("silent connection before an association", f"{listener.SILENT_S} s"),
                ("silent association", f"{listener.IDLE_S} s"),
                ("answer of a destination", f"{destination.TIMEOUT_S:g} s"),
            ],
        ),
    }


def _name(value: str) -> tuple[str, str]:
    known = uid.UID(value)
    return _NEW.get(str(value), known.name), f"`{value}`"


def _write_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"|{'|'.join(line)}|\n" if line[0] == "---" else f"| {' | '.join(line)} |\n" for line in lines)
