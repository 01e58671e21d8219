"""A data set small enough to train on in seconds: dark squares are normal, bright ones are pneumonia."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from trainer.data.split import parse_shares
from trainer.fit.hyperparameters import FitSettings

if TYPE_CHECKING:  # needs the extra `train`; without it the tests are skipped, and this file is imported
    from trainer.train import Progress, Request


def write_data(folder: Path, patients: int = 20) -> Path:
    rng = np.random.default_rng(7)
    for label, mean, name in (("NORMAL", 70, "IM-{:04d}-0001"), ("PNEUMONIA", 160, "person{}_virus_1")):
        (folder / label).mkdir(parents=True)
        for patient in range(patients):
            pixels = np.clip(rng.normal(mean, 40, (80, 90)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{name.format(patient)}.png")
    (folder / "NORMAL" / "IM-9999-0001.png").write_bytes(b"")
    return folder


def pytest_collection_modifyitems(items):
    """Keras builds and fits a network in minutes on busy cores."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(900))


@dataclass(frozen=True)
class Trained:
    request: "Request"
    told: list["Progress"]


@pytest.fixture(scope="session")
def base_request(tmp_path_factory):
    """Ask for two epochs on the small data set; tests give it their own folder."""
    from trainer.train import Request

    folder = tmp_path_factory.mktemp("data") / "scans"
    settings = FitSettings(epochs=2, batch_size=8, seed=5, split_seed=5)
    return Request("pediatric", write_data(folder), "cnn75", folder / "unused", parse_shares("60/20/20"), settings)


@pytest.fixture(scope="session")
def trained(base_request, tmp_path_factory):
    """Return a training of two epochs; its folder is read-only for tests."""
    from trainer.train import train

    request = replace(base_request, out=tmp_path_factory.mktemp("training") / "two-epochs")
    told = []
    train(request, report=told.append)
    return Trained(request, told)
