"""The Celery app for `celery --workdir / -A worker.app worker`; `nightread worker` makes an equal one.

Without `--workdir` Celery would look for the package `worker` in the current folder first.
"""

import os

from nightread.logs import configure_logging
from nightread.settings import read_settings
from worker.queue.celery_app import make_app

os.environ["PYTHONSAFEPATH"] = "1"  # child processes import nothing from the current folder
_settings = read_settings()
configure_logging(_settings)
app = make_app(_settings)
