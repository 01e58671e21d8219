"""Celery and Redis: messages that carry the id of a job.

broker: Redis or Sentinel, and their faults.
celery_app: the Celery app and its settings.
publisher: publishes due jobs while the queue is below its high-water mark.
guard: refuses messages that Nightread did not send.
sweeper: sweeps at intervals.
"""
