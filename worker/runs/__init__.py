"""A run from its folder to its end.

request: what is asked of a run beside its paths and its model.
intake: the scans below a run's sources, as rows.
enqueue: enqueues, retries and cancels runs.
schedules: nights that start themselves.
schedule_times: when the nights of a schedule are due.
guards: whether the end of a run looks like that of a night.
embedded: scores a run in this process.
interruption: finds the interrupted run that a command goes on with.
job_pool: the threads that run the jobs of an embedded run.
forks: the processes that run the jobs of a large embedded run.
shadow: scores the scans of a past run with another model.
drift: compares the scans of a run with a reference, and nights with each other.
drift_histogram: the measurements of a run that differ most, beside the reference.
verification: scores a run again and compares with what is stored.
"""
