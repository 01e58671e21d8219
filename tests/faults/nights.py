"""Folders of scans with known results of an undisturbed run."""

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

#: Part of the path of every night's folder; must not appear outside the columns for paths.
PATH_CANARY = "CANARY-WARD"
CANARIES = (CANARY, PATH_CANARY)

_SOUND, _CUT = 48, 8


@dataclass
class Pool:
    """Contents with their results in an undisturbed embedded run over SQLite.

    Attributes:
        outcomes: outcomes by content.
        scores: scores by SHA-256 and label.
        plain: contents to which bytes can be appended without changing the decoded pixels.
    """

    outcomes: dict[bytes, Outcome]
    scores: dict[str, dict[str, float]]
    plain: list[bytes]


@dataclass
class Night:
    """A folder with its expected results.

    Attributes:
        folder: the folder to enqueue.
        outcomes: outcomes by path as in the table.
        scores: scores of its contents.
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
        """Write a file; `base` is the content in the pool with equal pixels, by default `content`."""
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
    """Draw contents, and score them with the real program without faults."""
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
    """Score a folder with the real program without faults.

    Returns:
        Outcomes by path, scores by SHA-256 and label.
    """
    folder.mkdir(exist_ok=True)
    env = make_environment(folder)
    done = run("score", night, "--json", env=env, cwd=folder, expect=None)
    assert done.returncode in {0, 3, 4}, done  # 4: the guard, of a night that is mostly rejected
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
    """Write `count` files, most of them new contents, some known or damaged, and copies of some."""
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
    """Return a JPEG with equal pixels and another digest."""
    return content + f"<{text}>".encode()
