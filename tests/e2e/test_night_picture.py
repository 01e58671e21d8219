"""The picture of README.md is one that the program's own rows make."""

from pathlib import Path

from PIL import Image

from studies.night_picture import describe, draw_night, score_demo
from tests.factories import ROOT


def test_picture_shows_every_file_of_the_night_with_its_row(tmp_path):
    rows, summary = score_demo(tmp_path)
    texts = {Path(row["path"]).name: describe(row)[0] for row in rows}
    assert len(texts) == 15
    assert texts["cut-short.jpg"] == "rejected: damaged"
    assert texts["no-image.jpg"] == "rejected: not-an-image"
    assert texts["copy-of-patient-1.jpg"].endswith(", reused")
    with Image.open(ROOT / "docs" / "pictures" / "night.png") as kept:
        assert kept.size == draw_night(rows, summary).size
