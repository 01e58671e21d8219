"""Interface of a progress bar, without Rich."""


class Bar:
    """A progress bar that shows nothing."""

    def set(self, completed: int, total: int, description: str | None = None) -> None:
        """Show `completed` of `total`."""
