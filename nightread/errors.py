"""The error classes of Nightread, by who must act.

    NightreadError
      ScanError            the file is at fault: its scan ends `rejected`, and the job continues
        UnreadableScan       not an image, damaged, truncated, too large
        UnsupportedScan      readable, but not one single-frame radiograph
      StorageError         the storage is at fault, perhaps for a moment: the scan is retried
      ModelError           the model is at fault: a worker does not start
        CardMismatch         bundle, card and graph do not fit together, or a byte of them has changed
        ParityMismatch       this machine does not reproduce the scores of the parity file
        PromotionRefused   its figures speak against production, and no reason is given
      DeviceError          the requested device is not active
        DeviceFull           its memory is too small for a batch
      NoticeFailed         a notice could not be delivered
      SettingsError        the operator is at fault: the program ends at its start and names every fault
        WrongValue           so is who gave a value with this call, such as that of an option
      ExportError          the training folder or the converted network is at fault
      DatabaseError        the database refuses or fails
        DatabaseUnavailable  it does not answer, or cannot store: retry later
          DatabaseFull         its disk is full
        SchemaOutdated       its schema is that of another release
        BackupFailed         a backup cannot be written, or is not one that can be restored here
        PredictionGone       a stored score was deleted just before a scan reused it
        UnknownRun           no run, or more than one, has that name
        WrongStage           a model's stage does not allow the request

A message says what was found, what is allowed and what to do.
"""

from nightread.reasons import Reason


def is_interruption(error: BaseException | None) -> bool:
    """Return whether an error is Ctrl-C, or what came of it where it met an import: C modules make others of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


class NightreadError(Exception):
    """Base of all expected errors; the program prints them in one line, without a traceback."""


class ScanError(NightreadError):
    """A scan that cannot be scored because of its file.

    Attributes:
        reason: code that is stored with the scan.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnreadableScan(ScanError):
    """Not an image, damaged, truncated, or a decompression bomb."""


class UnsupportedScan(ScanError):
    """Readable, but not a single-frame radiograph."""


class StorageError(NightreadError):
    """A transient fault of the storage: a share that is away, an I/O error, a stale handle.

    Attributes:
        reason: code that is stored with the scan after the last attempt.
        grown_bytes: size of a file that was not read since it has grown; else 0.
    """

    def __init__(self, reason: Reason, message: str, *, grown_bytes: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.grown_bytes = grown_bytes


class ModelError(NightreadError):
    """A model bundle that must not be served."""


class CardMismatch(ModelError):
    """Bundle, card and graph do not fit together, or a byte of them has changed."""


class ParityMismatch(ModelError):
    """This machine does not reproduce the scores of the bundle's parity file."""


class PromotionRefused(ModelError):
    """The figures of a model bundle are below the floor or worse than those of the one in use."""


class DeviceError(NightreadError):
    """The requested device is not active."""


class DeviceFull(DeviceError):
    """The device's memory is too small for a batch; a smaller batch may fit."""


class NoticeFailed(NightreadError):
    """An address did not take the notice of a run's end."""


class SettingsError(NightreadError):
    """One or more settings are wrong; the message names all of them."""


class WrongValue(SettingsError):
    """A value that was given with a call, such as that of an option, is not allowed."""


class ExportError(NightreadError):
    """A training folder that cannot be exported, or an export that changes scores."""


class DatabaseError(NightreadError):
    """Base of the expected errors of the database layer."""


class DatabaseUnavailable(DatabaseError):
    """The database does not answer, or cannot store."""


class DatabaseFull(DatabaseUnavailable):
    """The database's disk is full; the transaction stored nothing."""


class SchemaOutdated(DatabaseError):
    """The database has the schema of another release."""


class BackupFailed(DatabaseError):
    """A backup that cannot be written, or a file that cannot be restored into this database."""


class PredictionGone(DatabaseError):
    """A stored prediction was deleted between its lookup and the commit of a scan that reuses it; nothing is stored."""


class UnknownRun(DatabaseError):
    """No run, or more than one, has that id, prefix or name."""


class WrongStage(DatabaseError):
    """The stage of a model bundle does not allow the request."""
