"""The Celery app for `celery -A worker.app worker`; `nightread worker` makes an equal one."""

from nightread.logs import configure_logging
from nightread.settings import read_settings
from worker.queue.celery_app import make_app

_settings = read_settings()
configure_logging(_settings)
app = make_app(_settings)
