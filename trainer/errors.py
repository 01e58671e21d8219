"""Errors of data sets and trainings.

NightreadError
  DatasetError     the data are at fault: a folder is missing, a label has no scans, too few patients to split
  TrainingError    the request or the training folder is at fault: unknown name, other settings, loss not finite
"""

from nightread.errors import NightreadError


class DatasetError(NightreadError):
    """A data set that cannot be trained on."""


class TrainingError(NightreadError):
    """A training that cannot start, resume or finish."""
