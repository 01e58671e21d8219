"""The Celery app: one factory and one set of settings for every process that touches the queue.

The database is the truth and a message only a hint, so everything here aims at never hanging and never looping, not
at never losing a message. Every process uses these same settings, because the shortest visibility timeout of all
processes wins.
"""

from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init
from kombu import Queue

from nightread.errors import SettingsError
from nightread.settings import Device, Settings
from worker.queue.guard import guard_redis
from worker.queue.publisher import QUEUE

#: No job takes this long; a decoder that does not return is ended with its process.
_JOB_LIMIT_S = 1800
_VISIBILITY_S = 3 * _JOB_LIMIT_S


class NightreadApp(Celery):
    """A Celery app that carries the settings it was made with.

    Attributes:
        nightread: the settings, None in a process that has unpickled the app (spawn), which reads them itself.
    """

    nightread: Settings | None = None


def make_app(settings: Settings) -> NightreadApp:
    """Return the app for `settings`; connects to nothing yet.

    Raises:
        SettingsError: no broker is set.
    """
    if not settings.has_shared_broker:
        raise SettingsError(
            "NIGHTREAD_BROKER_URL names no broker that other processes reach: set it to redis://HOST:6379/0"
        )
    guard_redis()
    app = NightreadApp(
        "nightread", broker=_verify_broker(settings.broker_url.get_secret_value()), include=["worker.tasks"]
    )
    app.nightread = settings
    app.conf.update(_configure(settings))
    setup_logging.connect(_configure_logging, weak=False)
    worker_init.connect(_check_before_start, weak=False)
    return app


def _verify_broker(url: str) -> str:
    """Return a broker's URL that verifies its certificate: kombu does only where the URL asks for it."""
    query = url.partition("?")[2]
    if not url.startswith("rediss:") or "ssl_cert_reqs=" in query:
        return url
    return f"{url}{'&' if query else '?'}ssl_cert_reqs=required"


def _configure_logging(**_: Any) -> None:
    """Keep Celery's own log set-up away: its receivers being connected is what switches that off."""


def _check_before_start(sender: Any, **_: Any) -> None:
    from worker.preflight import refuse_or_start  # needs ONNX Runtime, which a mere publisher does not

    refuse_or_start(sender)


def _configure(settings: Settings) -> dict[str, Any]:
    return {
        # Results are rows in SQL; a result backend would grow, and chords lose bodies.
        "task_ignore_result": True,
        # JSON only: a pickled message is refused, not run.
        "accept_content": ["json"],
        # A message outlives the main process that had it; a lost child's does not come back by itself, since that
        # loops without a count: the database counts the attempts and the sweeper publishes again.
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": True,
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": False,
        # Remote control listens to whoever can publish: it ends workers, and nothing here uses it.
        "worker_enable_remote_control": False,
        # Nothing waits unacknowledged behind a slow job.
        "worker_prefetch_multiplier": 1,
        "task_time_limit": _JOB_LIMIT_S,
        "broker_transport_options": {
            "visibility_timeout": _VISIBILITY_S,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,  # look every 10 s for what a dead main process held, not every 100 s
            # Without these a worker waits for ever on a connection whose other end is gone without a word.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": False,
            "global_keyprefix": "nightread:",
            "client_name": "nightread",
        },
        # Celery asks for it in three places, and takes the shortest.
        "result_backend_transport_options": {"visibility_timeout": _VISIBILITY_S},
        "visibility_timeout": _VISIBILITY_S,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # the default gives up after 100
        "broker_connection_timeout": 5,
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0.2, "interval_max": 2},
        # What runs across a lost connection is delivered again. The lease makes that harmless; to stop the first one
        # would throw its work away, and count as the death of a worker: a broker that flaps must not fail a scan.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # A worker that is to stop at once gives its jobs this long: a lease that is left behind counts as a crash.
        "worker_soft_shutdown_timeout": 10.0,
        "worker_max_tasks_per_child": 500,  # bounds what a leak can come to
        "worker_max_memory_per_child": 6_000_000,  # KiB; the same, and more than two windows and CUDA take
        # CUDA and its threads do not survive a fork.
        "worker_pool_start_method": "spawn" if settings.device is Device.CUDA else "fork",
        "worker_proc_alive_timeout": 60,  # a spawned child imports ONNX Runtime first
        "task_queues": [Queue(QUEUE)],
        "task_default_queue": QUEUE,
        "task_create_missing_queues": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }
