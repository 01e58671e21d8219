"""Where the data sets come from: which archive or Kaggle data set, and how one knows that all of it came."""

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

#: The state of the covid repository that is fetched; a ZIP archive by Git carries it as its comment.
_COVID_COMMIT: Final = "6a4242344473ccb5ed0d2148d8c7bfb1691e4ed8"


@dataclass(frozen=True, slots=True)
class Source:
    """One place that a data set can be fetched from.

    Attributes:
        dataset: the data set's name.
        place: as on the command line.
        url: of a ZIP archive, or empty.
        kaggle: OWNER/NAME at Kaggle, or empty.
        comment: the archive's comment, or None where it tells nothing.
        list_scans: lists what was fetched; raises where nothing can be trained on it.
        scans: how many scans must be there; None where that is not known.
        then: what a user does next.
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
    """Return the folder that holds train/: Kaggle's edition has it one or two folders deep."""
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

#: By data set; the first place is the default.
SOURCES: Final[Mapping[str, tuple[Source, ...]]] = {
    "pediatric": (_MENDELEY, _KAGGLE_PEDIATRIC),
    "covid": (_GITHUB,),
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A data set that lies in a folder now.

    Attributes:
        folder: where.
        scans: how many scans were found in it.
        new: False where it had been fetched before.
        then: what a user does next.
    """

    folder: Path
    scans: int
    new: bool
    then: str


def find_source(dataset: str, place: str | None) -> Source:
    """Return where a data set is fetched from.

    Raises:
        DatasetError: an unknown data set, or a place that does not have it.
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
    """Fetch a data set into a new folder; where it is there already, nothing is fetched.

    An archive is known to be whole by its length, its members' CRCs, the commit in its comment where there is one, the
    number of scans where it is published, and `sha256` where the caller has one: its publisher tells none. Kaggle's
    library checks its own. `SOURCE.json` in the folder tells what came from where, with the SHA-256 of the archive.

    Args:
        source: where from.
        folder: must not exist, or hold what was fetched.
        sha256: of the archive.
        report: is told (bytes done, bytes in all or None).

    Raises:
        DatasetError: no network, another file than expected, or too few scans in it.
    """
    if (folder / SOURCE_FILE).is_file():
        return _finish(source, folder, new=False)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder} is there and was not fetched by this command; --out names a new folder")
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
        raise DatasetError(f"{folder} holds {scans} scans; {source.dataset} has {source.scans}: delete it and repeat")
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
            f"Kaggle did not give {source.kaggle} ({said}); repeat the command to go on where it broke off, or fetch "
            "the data elsewhere and give their folder to `nightread train --data`"
        ) from None
    return {"kaggle": source.kaggle}
