"""What every part of Nightread shares: scans on disk to tensors, the model bundle, settings, errors."""

import os

__version__ = "0.1.0"

# ONNX Runtime reads this as it is imported. Without it, releases from 1.29 on keep a device id in the user's home, and
# one of their threads sends what they see of models and machine to their maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
