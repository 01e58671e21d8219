"""What every part of Nightread shares: scans on disk to tensors, the model bundle, settings, errors."""

__version__ = "0.1.0"
