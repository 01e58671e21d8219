"""Settings of Celery whose defaults lose messages, loop or hang."""

import pytest
from celery import Celery

from nightread.errors import SettingsError
from nightread.settings import read_settings
from worker.queue import celery_app
from worker.queue.celery_app import make_app


def configure(broker_url="redis://127.0.0.1:1/0", **settings):
    return make_app(read_settings(broker_url=broker_url, **settings)).conf


def test_each_setting_differs_from_celery_s_default_or_pins_it():
    pinned = {  # a later release of Celery may change these, and work would be lost or done twice
        "task_acks_on_failure_or_timeout", "task_retry_on_worker_lost", "worker_pool_start_method",
        "worker_cancel_long_running_tasks_on_connection_loss",
    }  # fmt: skip
    defaults = Celery("defaults").conf
    configured = celery_app._configure(read_settings())
    assert {name for name, value in configured.items() if defaults.get(name, ...) == value} == pinned


def test_a_message_is_acknowledged_after_its_job_and_not_requeued_by_celery():
    conf = configure()
    assert conf.task_acks_late
    assert conf.task_acks_on_failure_or_timeout
    assert not conf.task_reject_on_worker_lost
    assert not conf.task_retry_on_worker_lost


def test_a_worker_holds_no_message_behind_a_slow_job_and_gives_up_no_connection():
    conf = configure()
    assert (conf.worker_prefetch_multiplier, conf.broker_connection_max_retries) == (1, None)
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss


def test_the_visibility_timeout_is_longer_than_any_job():
    conf = configure()
    assert conf.visibility_timeout == conf.broker_transport_options["visibility_timeout"] >= 3 * conf.task_time_limit


def test_a_spawned_child_has_time_to_import_onnx_runtime():
    assert configure().worker_proc_alive_timeout >= 60


def test_a_half_open_connection_times_out():
    options = configure().broker_transport_options
    assert options["socket_timeout"] == options["health_check_interval"] == 10
    assert options["socket_connect_timeout"] == 5
    assert options["socket_keepalive"] is True
    assert options["retry_on_timeout"] is False


def test_messages_of_a_dead_worker_are_restored_every_ten_seconds():
    options = configure().broker_transport_options
    assert (options["unacked_restore_interval"], options["unacked_restore_throttle"]) == (10, 1)


def test_redis_keys_have_a_prefix():
    assert configure().broker_transport_options["global_keyprefix"] == "nightread:"


def test_a_worker_with_a_gpu_spawns_its_children():
    assert configure(device="cuda").worker_pool_start_method == "spawn"


def test_a_broker_that_no_other_process_reaches_is_refused():
    with pytest.raises(SettingsError, match="NIGHTREAD_BROKER_URL"):
        make_app(read_settings())


def test_the_task_is_registered_by_the_name_that_messages_carry():
    app = make_app(read_settings(broker_url="redis://127.0.0.1:1/0"))
    app.loader.import_default_modules()
    assert {name for name in app.tasks if name.startswith("nightread.")} == {"nightread.score_job"}


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("redis://h/0", "redis://h/0"),
        ("rediss://h/0", "rediss://h/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca", "rediss://h/0?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
    ],
)
def test_tls_verifies_unless_the_url_says_no(url, used):
    assert configure(url).broker_url == used


def test_remote_control_is_off():
    assert configure()["worker_enable_remote_control"] is False
