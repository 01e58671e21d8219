"""The app that `celery -A worker.app worker` finds; `nightread worker` starts the same one."""

from nightread.settings import read_settings
from worker.queue import make_app

app = make_app(read_settings())
