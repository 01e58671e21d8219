"""The Celery app: one factory and one set of settings for every process that uses the queue.

The database is the truth and a message only a hint. So these settings prevent hangs and loops; they may lose messages.
Every process must use them, because Celery applies the shortest visibility timeout of all processes.
"""

import contextlib
import os
import signal
from typing import Any

from celery import Celery
from celery.loaders.app import AppLoader
from celery.signals import setup_logging, worker_init, worker_shutting_down
from kombu import Queue

from db.types import Priority
from nightread.settings import Device, Settings, check_shared_broker
from worker.queue.broker import read_broker
from worker.queue.guard import guard_redis
from worker.queue.publisher import QUEUE
from worker.queue.turns import QUEUES, Turns

#: Time limit of a job. Only a decoder that does not return reaches it; its process is then ended.
_JOB_LIMIT_S = 1800
_VISIBILITY_S = 3 * _JOB_LIMIT_S


class _Loader(AppLoader):
    """Imports tasks as any other module: Celery's own loader looks into the current folder first, before every package.

    That folder may be the scan folder, whose writers must not run programs.
    """

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        return (imp or self.import_module)(module, package=package)


class NightreadApp(Celery):
    """A Celery app with its settings.

    Attributes:
        nightread: the settings; None in a spawned process, which has unpickled the app and reads them itself.
        priorities: classes of runs that this worker is kept free for; empty: it takes all.
    """

    nightread: Settings | None = None
    priorities: tuple[Priority, ...] = ()


def make_app(settings: Settings) -> NightreadApp:
    """Return the app for `settings`, without connecting.

    Raises:
        SettingsError: the broker lives in one process, or its address is wrong.
    """
    check_shared_broker(settings, "celery -A worker.app")
    guard_redis()
    broker = read_broker(settings)
    app = NightreadApp("nightread", broker=broker.url, include=["worker.tasks"], loader=_Loader)
    app.nightread = settings
    app.conf.update(_configure(settings))
    app.conf.broker_transport_options |= broker.options
    setup_logging.connect(_configure_logging, weak=False)
    worker_init.connect(_check_before_start, weak=False)
    return app


def _configure_logging(**_: Any) -> None:
    """Do nothing: Celery sets up its own log unless something receives this signal."""


def _check_before_start(sender: Any, **_: Any) -> None:
    from worker.preflight import refuse_or_start  # imports ONNX Runtime, which a publisher does not need

    refuse_or_start(sender)
    worker_shutting_down.connect(lambda **_: _stop_children(sender), weak=False)


def _stop_children(worker: Any) -> None:
    """Let the children cut their jobs short; they commit what they have scored, and give the rest back."""
    for child in getattr(getattr(worker.pool, "_pool", None), "_pool", ()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)


def _configure(settings: Settings) -> dict[str, Any]:
    return {
        # Results are rows in SQL; a result backend would grow.
        "task_ignore_result": True,
        # JSON only: a pickled message is refused.
        "accept_content": ["json"],
        # Celery redelivers the messages of a lost main process, but not those of a lost child: that would loop without
        # a count. The database counts the attempts, and the sweeper republishes.
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": True,
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": False,
        # Remote control obeys everyone who can publish, and can end workers; Nightread does not use it.
        "worker_enable_remote_control": False,
        # No message waits unacknowledged behind a slow job.
        "worker_prefetch_multiplier": 1,
        "task_time_limit": _JOB_LIMIT_S,
        "broker_transport_options": {
            "visibility_timeout": _VISIBILITY_S,
            "unacked_restore_interval": 10,
            "unacked_restore_limit": 1000,  # at once; anyone with access to Redis may have written there
            "unacked_restore_throttle": 1,  # looks for messages of a dead main process every 10 s, not every 100 s
            # Without these a worker waits for ever on a half-open connection.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": False,
            "global_keyprefix": "nightread:",
            "client_name": "nightread",
            "queue_order_strategy": f"{Turns.__module__}:{Turns.__name__}",
        },
        # Celery reads it from three places and takes the shortest.
        "result_backend_transport_options": {"visibility_timeout": _VISIBILITY_S},
        "visibility_timeout": _VISIBILITY_S,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # the default gives up after 100
        # An error that Redis answers, such as a full disk's, reconnects instead of ending the worker.
        "broker_channel_error_retry": True,
        "broker_connection_timeout": 5,
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0.2, "interval_max": 2},
        # Celery redelivers a job that runs while its connection is lost. The lease makes that harmless. Cancelling the
        # job would discard its work and count as a crash: a flapping broker must not fail a scan.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Grace period for running jobs on a cold shutdown: a lease that is left behind counts as a crash.
        "worker_soft_shutdown_timeout": 10.0,
        "worker_max_tasks_per_child": 500,  # bounds a leak
        "worker_max_memory_per_child": 6_000_000,  # KiB; bounds a leak, above the need of two windows and CUDA
        # CUDA and its threads do not survive a fork.
        "worker_pool_start_method": "spawn" if settings.device is Device.CUDA else "fork",
        "worker_lost_wait": 1.0,  # a killed child's job is given back after that; its results are in the database
        "worker_proc_alive_timeout": 60,  # a spawned child imports ONNX Runtime first
        "task_queues": [Queue(queue) for queue in QUEUES.values()],
        "task_default_queue": QUEUE,
        "task_create_missing_queues": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }
