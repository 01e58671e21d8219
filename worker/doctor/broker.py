"""Check of the broker: connection and rights."""

from worker.doctor.finding import Finding, warn_if
from worker.doctor.machine import Machine


def check_broker(machine: Machine) -> Finding:
    """Connect, and check that messages can be sent and stay."""
    settings = machine.settings
    if not settings.has_shared_broker:
        return Finding(
            "in this process: `score` works; `enqueue` and `worker` need NIGHTREAD_BROKER_URL=redis://HOST:6379/0"
        )
    from worker.queue.celery_app import make_app  # Celery, which a laptop does not wait for
    from worker.queue.publisher import Publisher

    publisher = Publisher(make_app(settings), settings)
    waiting, refused = publisher.count_waiting(), publisher.count_refused()
    publisher.check_rights()
    policy = publisher.find_eviction()
    return warn_if(
        policy,
        f"answers and takes messages; {waiting:,} waiting, {refused:,} refused so far",
        f"when it is full, it drops messages in silence (maxmemory-policy {policy}); set noeviction",
    )
