"""Opening a model while the program still starts: ONNX Runtime does so without Python's lock."""

import threading
from pathlib import Path

from nightread.inference.scorer import Scorer
from nightread.model.bundle import DEFAULT_MODEL, Bundle, find_bundle, list_bundles, load_bundle
from nightread.settings import Settings


class Ahead:
    """The model that a new run will most likely take, opened on a thread of its own.

    Nothing depends on it: where another model is wanted in the end, or this one cannot be opened, it is as if nothing
    had been done. So errors come when and where they always do.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: tuple[Path, Bundle, Scorer] | None = None
        self._thread: threading.Thread | None = None
        # No daemon: a thread inside ONNX Runtime must not see the interpreter end around it.
        if settings.model or not _has_own_bundles(settings.models_dir):
            self._thread = threading.Thread(target=self._open, name="open-ahead")
            self._thread.start()

    def load(self, folder: Path) -> Bundle:
        """Return the bundle in a folder, as `load_bundle` does.

        Raises:
            CardMismatch: the bundle is not whole.
        """
        opened = self._wait()
        return opened[1] if opened is not None and opened[0] == folder else load_bundle(folder)

    def take_scorer(self, bundle: Bundle) -> Scorer | None:
        """Return a bundle opened and checked; None where it is not the one that was opened ahead."""
        opened = self._wait()
        return opened[2] if opened is not None and opened[1].digest == bundle.digest else None

    def _wait(self) -> tuple[Path, Bundle, Scorer] | None:
        if self._thread is not None:
            self._thread.join()
        return self._opened

    def _open(self) -> None:
        settings = self._settings
        try:
            folder = find_bundle(settings.model or DEFAULT_MODEL, settings.models_dir)
            bundle = load_bundle(folder)
            self._opened = folder, bundle, Scorer(bundle, settings.device, 1)
        except Exception:  # noqa: BLE001  # it is raised again where the model is opened in its turn
            return


def _has_own_bundles(models_dir: Path) -> bool:
    """Whether the operator has bundles, of which any may be in production: then only the database knows."""
    return any(models_dir in folder.parents for folder in list_bundles(models_dir))
