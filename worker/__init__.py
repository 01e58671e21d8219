"""What turns queued jobs into predictions: the Celery app and task, the scoring pipeline, the sweeper."""
