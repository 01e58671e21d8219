"""Each setting of the queue that was chosen for a reason, since its default loses, loops or hangs."""

import pytest

from nightread.errors import SettingsError
from nightread.settings import read_settings
from worker.queue.celery_app import make_app


def configure(broker_url="redis://127.0.0.1:1/0", **settings):
    return make_app(read_settings(broker_url=broker_url, **settings)).conf


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_ignore_result", True),
        ("result_backend", None),
        ("task_serializer", "json"),
        ("accept_content", ["json"]),
        ("result_accept_content", ["json"]),
        ("event_serializer", "json"),
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", False),
        ("task_retry_on_worker_lost", False),
        ("worker_soft_shutdown_timeout", 10.0),
        ("worker_enable_soft_shutdown_on_idle", False),
        ("worker_max_memory_per_child", 6_000_000),
        ("task_acks_on_failure_or_timeout", True),
        ("worker_prefetch_multiplier", 1),
        ("broker_connection_retry_on_startup", True),
        ("broker_connection_max_retries", None),
        ("worker_cancel_long_running_tasks_on_connection_loss", False),
        ("worker_pool_start_method", "fork"),
        ("task_create_missing_queues", False),
        ("task_track_started", False),
        ("worker_send_task_events", False),
        ("worker_hijack_root_logger", False),
        ("worker_redirect_stdouts", False),
        ("beat_scheduler", "celery.beat:Scheduler"),
    ],
)
def test_a_setting_is_the_one_that_was_chosen(name, value):
    assert configure()[name] == value


def test_no_job_is_delivered_again_while_it_may_still_run():
    conf = configure()
    assert conf.visibility_timeout == conf.broker_transport_options["visibility_timeout"] >= 3 * conf.task_time_limit


def test_a_child_that_imports_the_runtime_is_given_time():
    assert configure().worker_proc_alive_timeout >= 60


def test_nothing_waits_for_ever_on_a_dead_connection():
    options = configure().broker_transport_options
    assert options["socket_timeout"] == options["health_check_interval"] == 10
    assert options["socket_connect_timeout"] == 5
    assert options["socket_keepalive"] is True
    assert options["retry_on_timeout"] is False


def test_what_a_dead_worker_held_is_looked_for_every_ten_seconds():
    options = configure().broker_transport_options
    assert (options["unacked_restore_interval"], options["unacked_restore_throttle"]) == (10, 1)


def test_keys_have_a_prefix_of_their_own():
    assert configure().broker_transport_options["global_keyprefix"] == "nightread:"


def test_a_gpu_is_not_taken_over_a_fork():
    assert configure(device="cuda").worker_pool_start_method == "spawn"


def test_the_sweep_is_sent_as_often_as_set_and_does_not_pile_up():
    (entry,) = configure(sweep_s=30.0).beat_schedule.values()
    assert (entry["task"], entry["schedule"], entry["options"]["expires"]) == ("nightread.sweep", 30.0, 30.0)


def test_a_broker_that_no_other_process_reaches_is_refused():
    with pytest.raises(SettingsError, match="NIGHTREAD_BROKER_URL"):
        make_app(read_settings())


def test_both_tasks_are_registered_by_the_names_that_messages_carry():
    app = make_app(read_settings(broker_url="redis://127.0.0.1:1/0"))
    app.loader.import_default_modules()
    assert {"nightread.score_job", "nightread.sweep"} <= set(app.tasks)


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("redis://h/0", "redis://h/0"),
        ("rediss://h/0", "rediss://h/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca", "rediss://h/0?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),  # somebody has said so
    ],
)
def test_tls_verifies_unless_the_url_says_no(url, used):
    assert configure(url).broker_url == used


def test_no_remote_control_is_listened_to():
    assert configure()["worker_enable_remote_control"] is False
