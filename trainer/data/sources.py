"""Sources of the data sets: archives and Kaggle data sets, and the checks that a download is complete."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from trainer.data.covid import list_covid
from trainer.data.dataset import Choices, Listing, SplitBy
from trainer.data.download import download, unpack
from trainer.data.pediatric import list_pediatric
from trainer.errors import DatasetError

SOURCE_FILE: Final = "SOURCE.json"

#: Commit of the covid repository; Git writes it into the comment of a ZIP archive.
_COVID_COMMIT: Final = "6a4242344473ccb5ed0d2148d8c7bfb1691e4ed8"


@dataclass(frozen=True, slots=True)
class Source:
    """A source of a data set.

    Attributes:
        dataset: name of the data set.
        place: name of the source, as on the command line.
        url: of a ZIP archive, or empty.
        kaggle: OWNER/NAME at Kaggle, or empty.
        comment: required comment of the archive; None for any.
        list_scans: lists the fetched scans; raises if they cannot be trained on.
        scans: expected number of scans; None if unknown.
        then: next command for the user.
    """

    dataset: str
    place: str
    list_scans: Callable[[Path], Listing]
    then: str
    url: str = ""
    kaggle: str = ""
    comment: str | None = None
    scans: int | None = None


def _list_all_pediatric(folder: Path) -> Listing:
    return list_pediatric(_find_pediatric(folder), Choices(split_by=SplitBy.ARTICLE))


def _find_pediatric(folder: Path) -> Path:
    """Return the folder that holds train/: one or two folders deep in Kaggle's edition."""
    for place in (folder, folder / "chest_xray", folder / "chest_xray/chest_xray"):
        if (place / "train").is_dir():
            return place
    return folder


def _list_all_covid(folder: Path) -> Listing:
    return list_covid(folder, Choices(normals=0))


_MENDELEY: Final = Source(
    "pediatric",
    "mendeley",
    _list_all_pediatric,
    "nightread train pediatric --data {folder}",
    # ChestXRay2017.zip of doi:10.17632/rscbjbr9sj, version 2.
    url="https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
    "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
    scans=5856,
)
_KAGGLE_PEDIATRIC: Final = Source(
    "pediatric",
    "kaggle",
    _list_all_pediatric,
    "nightread train pediatric --data {folder}/chest_xray",
    kaggle="paultimothymooney/chest-xray-pneumonia",
    scans=5856,
)
_GITHUB: Final = Source(
    "covid",
    "github",
    _list_all_covid,
    "nightread train covid --data {folder} --normals 0; healthy scans come with CoronaHack's metadata, see --healthy",
    url=f"https://codeload.github.com/ieee8023/covid-chestxray-dataset/zip/{_COVID_COMMIT}",
    comment=_COVID_COMMIT,
)

#: By data set; the first source is the default.
SOURCES: Final[Mapping[str, tuple[Source, ...]]] = {
    "pediatric": (_MENDELEY, _KAGGLE_PEDIATRIC),
    "covid": (_GITHUB,),
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetched data set.

    Attributes:
        folder: of the data set.
        scans: number of scans in it.
        new: False if it had been fetched before.
        then: next command for the user.
    """

    folder: Path
    scans: int
    new: bool
    then: str


def find_source(dataset: str, place: str | None) -> Source:
    """Return a source of a data set.

    Raises:
        DatasetError: an unknown data set or source.
    """
    if dataset not in SOURCES:
        raise DatasetError(f"there is no data set {dataset!r} to fetch; there are: {', '.join(sorted(SOURCES))}")
    for source in SOURCES[dataset]:
        if place in {None, source.place}:
            return source
    places = ", ".join(source.place for source in SOURCES[dataset])
    raise DatasetError(f"{dataset} is not fetched from {place!r}; it is from: {places}")


def fetch(
    source: Source, folder: Path, *, sha256: str | None = None, report: Callable[[int, int | None], None]
) -> Fetched:
    """Fetch a data set into a new folder; do nothing if it is already there.

    An archive is checked by its length, the CRCs of its members, the commit in its comment, the published number of
    scans, and `sha256` if the caller has one: the publisher states none. Kaggle's library checks its own files.
    `SOURCE.json` in the folder records the source and the SHA-256 of the archive.

    Args:
        source: of the data set.
        folder: must not exist, or hold the fetched data set.
        sha256: of the archive.
        report: called with (bytes done, bytes in all or None).

    Raises:
        DatasetError: no network, another file than expected, or too few scans in it.
    """
    if (folder / SOURCE_FILE).is_file():
        return _finish(source, folder, new=False)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} exists and was not fetched by this command: name a new folder with --out")
    if source.kaggle:
        told = _fetch_from_kaggle(source, folder)
    else:
        archive = folder.absolute().with_name(f"{folder.name}.zip")
        downloaded = download(source.url, archive, sha256=sha256, report=report)
        if folder.is_dir():
            folder.rmdir()
        files = unpack(archive, folder, comment=source.comment)
        told = {"url": source.url, "sha256": downloaded.sha256, "bytes": downloaded.size_bytes, "files": files}
        archive.unlink()
    fetched = _finish(source, folder, new=True)
    told |= {"dataset": source.dataset, "scans": fetched.scans, "fetched_at": datetime.now(UTC).isoformat()}
    (folder / SOURCE_FILE).write_text(json.dumps(told, indent=2) + "\n")
    return fetched


def _finish(source: Source, folder: Path, *, new: bool) -> Fetched:
    scans = len(source.list_scans(folder).scans)
    if source.scans is not None and scans != source.scans:
        raise DatasetError(
            f"{folder} holds {scans} scans; {source.dataset} has {source.scans}: delete it and repeat the command"
        )
    return Fetched(folder, scans, new, source.then.format(folder=folder))


def _fetch_from_kaggle(source: Source, folder: Path) -> dict[str, object]:
    try:
        import kagglehub
    except ImportError:
        raise DatasetError(
            "fetching from Kaggle needs kagglehub, which the extra `data` brings: uv sync --extra data"
        ) from None
    try:
        kagglehub.dataset_download(source.kaggle, output_dir=str(folder))
    except Exception as error:  # noqa: BLE001 - its errors have no common base
        said = " ".join(str(error).split())[:300]
        raise DatasetError(
            f"Kaggle did not send {source.kaggle} ({said}): repeat the command to resume, or fetch the data elsewhere "
            "and give their folder to `nightread train --data`"
        ) from None
    return {"kaggle": source.kaggle}
