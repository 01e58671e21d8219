"""The errors of Nightread, by who must act.

    NightreadError
      ScanError            the file is at fault: it is recorded as `rejected` with its code, and the job goes on
        UnreadableScan       not an image, damaged, truncated, too large
        UnsupportedScan      readable, but not one single-frame radiograph
      StorageError         the storage is at fault, perhaps for a moment: the scan is tried again
      ModelError           the model is at fault: a worker stops before it takes a job
        CardMismatch         bundle, card and graph do not fit together, or a byte of them has changed
        ParityMismatch       this machine does not reproduce the scores that the model was exported with
      DeviceError          the device that was asked for is not really there
        DeviceFull           its memory does not suffice for a batch
      SettingsError        the operator is at fault: stop at start-up, naming every fault at once
      ExportError          the training folder or the converted network is at fault
      DatabaseError        the ledger did not do what was asked
        DatabaseUnavailable  it does not answer, or cannot store: try again later
          DatabaseFull         its disk is full
        SchemaOutdated       its tables are those of another release
        UnknownRun           no run, or more than one, goes by that name
        WrongStage           a model's stage does not allow what was asked

A message says what was found, what is allowed and what to do about it.
"""

from nightread.reasons import Reason


class NightreadError(Exception):
    """Base of every error that Nightread understands; shown to people in one line, never as a traceback."""


class ScanError(NightreadError):
    """A scan that cannot be scored because of what its file holds.

    Attributes:
        reason: the code that is stored with the scan.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnreadableScan(ScanError):
    """Not an image, damaged, truncated, or a decompression bomb."""


class UnsupportedScan(ScanError):
    """Readable, but not one single-frame radiograph."""


class StorageError(NightreadError):
    """A file could not be read for a reason that may pass: gone with its share, an I/O error, a stale handle.

    Attributes:
        reason: the code that is stored with the scan once all attempts are used up.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(NightreadError):
    """A model bundle that must not be served."""


class CardMismatch(ModelError):
    """Bundle, card and graph do not fit together, or a byte of them has changed."""


class ParityMismatch(ModelError):
    """The scores computed here are not those that the bundle was exported with."""


class DeviceError(NightreadError):
    """The device that was asked for is not active."""


class DeviceFull(DeviceError):
    """The device has not enough memory for a batch; a smaller one may fit."""


class SettingsError(NightreadError):
    """One or more settings are wrong; the message names all of them."""


class ExportError(NightreadError):
    """A training folder that cannot be exported, or a network that would not be the same afterwards."""


class DatabaseError(NightreadError):
    """Base of what the database layer raises on purpose."""


class DatabaseUnavailable(DatabaseError):
    """The database does not answer, or cannot store."""


class DatabaseFull(DatabaseUnavailable):
    """There is no room on the database's disk; nothing was stored, and what was stored before stays."""


class SchemaOutdated(DatabaseError):
    """The tables are not those that this release needs."""


class UnknownRun(DatabaseError):
    """No run, or more than one, goes by that id, prefix or name."""


class WrongStage(DatabaseError):
    """A model bundle's stage does not allow what was asked."""
