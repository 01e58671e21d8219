"""Keeps the DICOM libraries from logging what they read: their lines hold names and ids of patients at any level."""

import logging
import warnings
from typing import Final

import pydicom.config
from pynetdicom import _config

_LOGGERS: Final = ("pynetdicom", "pydicom", "dicomweb_client", "highdicom", "urllib3", "retrying")


def silence_libraries() -> None:
    """Turn off logs and warnings of the DICOM libraries in this process, whatever level the log has."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"(pydicom|pynetdicom|highdicom)(\.|$)")
