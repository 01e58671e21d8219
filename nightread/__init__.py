"""The library: scans on disk to tensors, model bundles, and scores with the input gate's verdicts.

    model = nightread.open_model("pneumonia-lite0")
    for row in model.predict(paths): ...

__main__: start of the program.
api: `open_model`, `Model` and the rows that it yields.
batches: `score_batches`, for other engines.
settings: the settings and their defaults.
page_settings: settings of the worklist page.
settings_sources: where they come from: variables `NIGHTREAD_*` and the user's files.
settings_faults: wrong settings in words.
field_faults: faults of any pydantic model in words.
regular_file: reading of a file that a person names.
settings_addresses: URLs of database and broker, checked.
errors: every error that is raised on purpose.
reasons: closed list of the reasons why a scan has no scores.
logs: log lines as text or JSON.
failpoints: names of places at which a process can be made to fail.
fault_injection: makes it fail, in tests; not in the wheel.
process_limits: what a child process that works on hostile bytes can still do.
system_calls: those that it does not need, and their filter.
cgroup: limits of a container.
machine: cores, memory and start time of processes.
example_night: a small night of real scans and faulty files.
text: file names and messages that are safe to show.
scan/: a folder of files to network inputs.
model/: card, bundle, input gate and drift.
inference/: ONNX Runtime, from file contents to scores.
bundles/: the model bundles that ship.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightread.api import Model, Provenance, ScanResult, open_model
    from nightread.batches import score_batches

__all__ = ["Model", "Provenance", "ScanResult", "__version__", "open_model", "score_batches"]

__version__ = "0.1.0"

# ONNX Runtime reads this as it is imported. Without it, releases from 1.29 on keep a device id in the user's home, and
# one of their threads sends what they see of models and machine to their maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def __getattr__(name: str) -> Any:
    """Import the library at its first use: NumPy and ONNX Runtime take half a second."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("nightread.batches" if name == "score_batches" else "nightread.api"), name)
