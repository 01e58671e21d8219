"""Teachers: finished trainings whose mean opinion of each scan is what another network learns.

The mean of several networks is right more often than each of them, and costs as many inferences. A network that learns
from the mean keeps most of that at the price of one (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from nightread.model.training_folder import CHECKPOINT_FILE
from nightread.scan.preprocessing import Tensor
from trainer.errors import TrainingError
from trainer.evaluation.part_scores import load_checkpoint
from trainer.fit.fit import SETTINGS_FILE, UNCALIBRATED_FILE

#: Scores nearer to 0 or 1 count as this far away: a logit must be finite.
_NEAREST: Final = 1e-6


def identify(folders: Sequence[Path]) -> str:
    """Return the digests of the teachers' networks, shortened; "" without teachers.

    Raises:
        TrainingError: a folder holds no finished training.
    """
    return ", ".join(hashlib.sha256(_find_network(folder).read_bytes()).hexdigest()[:12] for folder in folders)


class Teachers:
    """Networks of the same task, fitted on the same scans."""

    def __init__(self, folders: Sequence[Path], labels: Sequence[str], digest: str) -> None:
        """Open the networks.

        Args:
            folders: training folders.
            labels: of the task.
            digest: of scans and split; teachers that have seen the hold-out would tell of it.

        Raises:
            TrainingError: a folder holds no finished training, or one of other labels, scans or split.
        """
        networks = [_find_network(folder) for folder in folders]
        for folder in folders:
            begun = json.loads((folder / SETTINGS_FILE).read_text())
            if (begun["labels"], begun["data"]) != (list(labels), digest):
                raise TrainingError(f"{folder} was trained with other labels, scans or another split")
        self._networks = [load_checkpoint(network.parent, network.name) for network in networks]
        self._judge = tf.function(self._mean, reduce_retracing=True)

    def judge(self, inputs: Tensor) -> npt.NDArray[np.float32]:
        """Return the mean opinion: scores whose logits are the mean of the teachers' logits.

        Args:
            inputs: (B, H, W, C) float32.

        Returns:
            (B, L) float32, in [0, 1].
        """
        return np.asarray(self._judge(inputs))

    def _mean(self, inputs: Any) -> Any:
        scores = [
            tf.clip_by_value(network(inputs, training=False), _NEAREST, 1 - _NEAREST) for network in self._networks
        ]
        if scores[0].shape[-1] == 1:
            return tf.sigmoid(tf.reduce_mean([tf.math.log(one) - tf.math.log1p(-one) for one in scores], axis=0))
        return tf.nn.softmax(tf.reduce_mean([tf.math.log(one) for one in scores], axis=0))


def _find_network(folder: Path) -> Path:
    """Return the file of a teacher's network, before its scores were calibrated if they were.

    Raises:
        TrainingError: the folder holds no finished training.
    """
    for name in (UNCALIBRATED_FILE, CHECKPOINT_FILE):
        if (folder / name).is_file() and (folder / CHECKPOINT_FILE).is_file() and (folder / SETTINGS_FILE).is_file():
            return folder / name
    raise TrainingError(f"{folder} holds no finished training: a teacher is the --out of one")
