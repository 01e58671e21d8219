"""Folders of scans, each with what an undisturbed run makes of it, known beforehand."""

import hashlib
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from db.engine import make_engine, reading
from db.tables import predictions, scans
from db.types import ScanStatus
from nightread.scan.files import encode_path
from tests.factories import CANARY, encode_dicom, encode_jpeg, encode_png16, small_chest
from tests.faults.checker import Expected, Outcome
from tests.program import last_json, make_environment, run

#: Stands in the path of every night's folder, and must show up nowhere else.
PATH_CANARY = "CANARY-WARD"
CANARIES = (CANARY, PATH_CANARY)

_SOUND, _CUT = 48, 8


@dataclass
class Pool:
    """Contents and what an undisturbed run, the embedded one over SQLite, made of each.

    Attributes:
        outcomes: by content.
        scores: by SHA-256 and label.
        plain: contents that may be told apart by bytes at their end, which no decoder looks at.
    """

    outcomes: dict[bytes, Outcome]
    scores: dict[str, dict[str, float]]
    plain: list[bytes]


@dataclass
class Night:
    """A folder and what it comes to.

    Attributes:
        folder: what is enqueued.
        outcomes: by path, as the table holds it.
        scores: of its contents.
    """

    folder: Path
    outcomes: dict[str, Outcome | list[Outcome]] = field(default_factory=dict)
    scores: dict[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def expected(self) -> Expected:
        return Expected(dict(self.outcomes), dict(self.scores))

    def __len__(self) -> int:
        return len(self.outcomes)

    def add(self, pool: Pool, name: str, content: bytes, base: bytes | None = None) -> Path:
        """Write one more file; `base` is the content of the pool that it is decoded as, itself where None."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        outcome = pool.outcomes[base or content]
        sha256 = hashlib.sha256(content).hexdigest()
        if outcome.sha256 is not None:
            self.scores[sha256] = pool.scores[outcome.sha256]
            outcome = Outcome(outcome.status, outcome.reason, sha256)
        self.outcomes[encode_path(path)] = outcome
        return path


def make_pool(folder: Path) -> Pool:
    """Draw contents and have the real program score them where nothing disturbs it."""
    encoders = (encode_jpeg, encode_jpeg, encode_png16, encode_dicom)
    contents = [encoders[seed % len(encoders)](small_chest(seed)) for seed in range(_SOUND)]
    contents += [content[: len(content) * (index + 1) // 10] for index, content in enumerate(contents[:_CUT])]
    contents += [b"", b"This is no scan.\n", b"GIF89a" + bytes(100), encode_jpeg(small_chest(1)[:8, :8])]
    night = folder / "pool"
    night.mkdir()
    by_path = {}
    for number, content in enumerate(contents):
        path = night / f"{number:03}.jpg"
        path.write_bytes(content)
        by_path[encode_path(path)] = content
    outcomes, scores = score_undisturbed(night, folder)
    shutil.rmtree(night)
    plain = [content for content in contents[:_SOUND] if content.startswith(b"\xff\xd8")]
    return Pool({by_path[path]: outcome for path, outcome in outcomes.items()}, scores, plain)


def score_undisturbed(night: Path, folder: Path) -> tuple[dict[str, Outcome], dict[str, dict[str, float]]]:
    """Have the real program score a folder where nothing disturbs it.

    Returns:
        Outcomes by path, scores by SHA-256 and label.
    """
    folder.mkdir(exist_ok=True)
    env = make_environment(folder)
    done = run("score", night, "--json", env=env, cwd=folder, expect=None)
    assert done.returncode in {0, 3}
    run_id = last_json(done)["run"]
    engine = make_engine(f"sqlite:///{folder / 'data' / 'nightread' / 'nightread.db'}")
    outcomes: dict[str, Outcome] = {}
    scores: dict[str, dict[str, float]] = {}
    with reading(engine) as connection:
        for row in connection.execute(scans.select().where(scans.c.run_id == run_id)):
            is_scored = row.status is ScanStatus.SCORED
            outcomes[row.path] = Outcome(row.status, row.reason_code, row.sha256 if is_scored else None)
        for row in connection.execute(predictions.select()):
            scores.setdefault(row.sha256, {})[row.label] = row.score
    engine.dispose()
    return outcomes, scores


def make_night(pool: Pool, folder: Path, count: int, seed: int) -> Night:
    """Write `count` files: sound ones of every kind, most of them seen for the first time, copies, and damaged ones."""
    choose = random.Random(seed)
    night = Night(folder / f"{PATH_CANARY}-{seed}")
    known = list(pool.outcomes)
    for number in range(count):
        base = choose.choice(known)
        content = base
        if choose.random() < 0.8:
            base = choose.choice(pool.plain)
            content = mark(base, f"{seed}.{number}")
        night.add(pool, f"{number:05}.jpg", content, base)
        if choose.random() < 0.05:
            night.add(pool, f"{number:05}-again.jpg", content, base)
    return night


def mark(content: bytes, text: str) -> bytes:
    """Return a JPEG of the same pixels and another digest."""
    return content + f"<{text}>".encode()
