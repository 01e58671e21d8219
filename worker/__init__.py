"""From a queued job to stored predictions.

app: the Celery app, for `celery --workdir / -A worker.app`.
tasks: the Celery tasks.
process: what one worker process keeps: settings, engine, model, decoder.
preflight: tries the model in a process of its own before a worker starts.
health: worker liveness, judged by committed work.
exposition: serves the ledger's metrics to Prometheus.
errors: the errors of runs and jobs.
guard_codes: the codes of the guards, what they mean, and what to do.
queue: Celery and Redis.
runs: a run from its folder to its end.
jobs: one job: claimed, scored, stored.
report: what a run came to, as a file for people.
decoder: decoding on threads and in a sandbox.
registry: model bundles and their stages.
doctor: what a host needs before its first night, check by check.
"""

import nightread  # noqa: F401  # before ONNX Runtime, which it keeps from reporting to its maker
