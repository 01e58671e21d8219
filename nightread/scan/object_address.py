"""Addresses in object storage: `s3://BUCKET/KEY`, `gs://BUCKET/KEY` and `az://CONTAINER/KEY`.

An address stands wherever a path of a scan or a folder may stand. As a `Path` it is `s3:/BUCKET/KEY`: pathlib takes
away the second slash. No local path looks like that once it is resolved, since resolved ones are absolute.
"""

import os
import re
from typing import Final, NamedTuple

SCHEMES: Final = ("s3", "gs", "az")
#: What people write for the same, or hope for; a presigned URL is one of them.
_FOREIGN: Final = frozenset(
    {"abfs", "abfss", "azure", "file", "ftp", "gcs", "hdfs", "http", "https", "s3a", "s3n", "wasb", "wasbs"}
)
_START: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
#: A colon that separates roots, and not the scheme of an address from its bucket.
_ROOT: Final = re.compile(rf"(?:(?:{'|'.join((*SCHEMES, *_FOREIGN))}):/)?[^:]+", re.IGNORECASE)


class ObjectAddress(NamedTuple):
    """Where one object lies, or all objects below a prefix.

    Attributes:
        scheme: one of `SCHEMES`.
        bucket: name of the bucket, in Azure of the container; its account is named by the environment.
        key: of the object, or a prefix without a slash at its end; "" for the whole bucket.
    """

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an address in object storage, perhaps a faulty one."""
    found = _START.match(os.fspath(path))
    return found is not None and found[1] in SCHEMES


def spell_address(path: str | os.PathLike[str]) -> str:
    """Return a path as text: an address with both slashes, any other path as it is."""
    text = os.fspath(path)
    if not is_address(text):
        return text
    scheme, _, rest = text.partition(":/")
    return f"{scheme}://{rest.removeprefix('/')}"


def read_address(path: str | os.PathLike[str]) -> ObjectAddress | None:
    """Return the parts of an address; None for a local path.

    Raises:
        ValueError: it is none that may be read. The message shows nothing of it: it may hold a password or signature.
    """
    text = os.fspath(path)
    found = _START.match(text)
    if found is None or found[1].lower() not in {*SCHEMES, *_FOREIGN}:
        return None
    scheme = found[1]
    if scheme not in SCHEMES:  # `S3://` would be another path of the same object
        raise ValueError(
            f"addresses that begin with {scheme}: are not read; write a path, or s3://BUCKET/PREFIX, gs:// or az://, "
            "and leave credentials to the environment"
        )
    bucket, _, key = spell_address(text).removeprefix(f"{scheme}://").partition("/")
    if {"?", "#"} & set(bucket + key):
        raise ValueError(
            f"an {scheme}:// address may hold no ? and no #: a query could hold a signature, and would be stored; "
            "leave credentials to the environment"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            f"an {scheme}:// address names no bucket; write {scheme}://BUCKET/PREFIX, without user and key"
        )
    key = key.removesuffix("/")
    if not is_key(key):
        raise ValueError(f"an {scheme}:// address has an empty part, or one that is . or ..; write it without")
    return ObjectAddress(scheme, bucket, key)


def is_key(key: str) -> bool:
    """Return whether an address can hold a key: its parts are neither empty nor dots, and it is text."""
    is_text = not any("\ud800" <= char <= "\udfff" for char in key)
    return not key or (is_text and not {"", ".", ".."} & set(key.split("/")))


def split_roots(text: str) -> list[str]:
    """Return the parts of a list of folders and addresses, which ':' separates.

    Raises:
        ValueError: one is an address that is not read.
    """
    roots = _ROOT.findall(text)
    for root in roots:
        read_address(root)
    return roots
