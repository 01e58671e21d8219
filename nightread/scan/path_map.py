"""One folder under different names on different hosts: rows hold the shared name, and each host reads its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PathMap:
    """Folders that this host calls otherwise than the rows do.

    Attributes:
        pairs: (shared name, name on this host), both absolute and without a slash at their end.
    """

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, text: str) -> "PathMap":
        """Return the map of a setting: SHARED=LOCAL, separated by ':'.

        Raises:
            ValueError: a part names no two full paths.
        """
        pairs = []
        for part in filter(None, text.split(":")):
            shared, _, local = part.partition("=")
            if not (shared[:1] == local[:1] == "/"):
                msg = f"{part[:60]!r} names no two folders; write SHARED=LOCAL, such as /scans=/mnt/nas/scans"
                raise ValueError(msg)
            pairs.append((shared, local))
        return cls(tuple((shared.rstrip("/"), local.rstrip("/")) for shared, local in pairs))

    def to_local(self, path: str) -> str:
        """Return this host's path of a file that the rows call `path`."""
        return _replace(path, self.pairs)

    def to_shared(self, path: str) -> str:
        """Return what the rows call a path of this host."""
        return _replace(path, tuple((local, shared) for shared, local in self.pairs))


def _replace(path: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """Return `path` with the longest first name that it lies below replaced by the second."""
    fitting = [(first, second) for first, second in pairs if path == first or path.startswith(f"{first}/")]
    if not fitting:
        return path
    first, second = max(fitting, key=lambda pair: len(pair[0]))
    return second + path[len(first) :]
