"""What turns queued jobs into predictions: the Celery app and task, the scoring pipeline, the sweeper."""

import nightread  # noqa: F401  # before ONNX Runtime, which it keeps from reporting to its maker
