"""The app that `celery -A worker.app worker` finds; `nightread worker` starts the same one."""

from nightread.logs import configure_logging
from nightread.settings import read_settings
from worker.queue.celery_app import make_app

_settings = read_settings()
configure_logging(_settings)
app = make_app(_settings)
