"""What the checks share."""

from functools import cached_property

from sqlalchemy import Engine

from db.schema import open_database
from nightread.settings import Settings
from worker.process import WorkerProcess
from worker.registry.choose import Choice, choose_bundle


class Machine:
    """This machine as the checks see it: each part is opened by the first check that needs it.

    Attributes:
        settings: of this process.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def engine(self) -> Engine:
        """The database, its schema checked."""
        return open_database(self.settings.database_url.get_secret_value())

    @cached_property
    def process(self) -> WorkerProcess:
        """A worker process as this host would start it."""
        return WorkerProcess(self.settings)

    @cached_property
    def choice(self) -> Choice:
        """The model of a new run, opened and checked on this machine's device."""
        choice = choose_bundle(self.engine, self.settings)
        self.process.open_bundle(choice.bundle)
        return choice
