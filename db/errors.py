"""The errors of the database layer, each told in one line with its remedy.

DatabaseError
  DatabaseUnavailable    no connection, no permission: try again later, or mend the URL
    DatabaseFull           no room on its disk: nothing is stored until somebody makes some
  SchemaOutdated         the tables are not those that this release needs
  UnknownRun             no run, or more than one, goes by that id, prefix or name
  WrongStage             a model bundle's stage does not allow what was asked
"""


class DatabaseError(Exception):
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
