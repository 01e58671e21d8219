"""Celery and Redis: messages that carry the id of a job.

broker: Redis or Sentinel, and their faults.
celery_app: the Celery app and its settings.
turns: the queues of the classes of runs, and whose turn it is.
delivery: gives the job of a killed child back.
publisher: publishes due jobs while the queues are below their high-water mark.
guard: refuses messages that Nightread did not send.
sweeper: sweeps at intervals.
"""
