"""A run from its folder to its end.

enqueue: lists the files and writes run, scans and jobs.
embedded: scores a run in this process.
job_pool: the threads that run the jobs of an embedded run.
forks: the processes that run the jobs of a large embedded run.
shadow: scores the scans of a past run with another model.
drift: gathers what the scans of a run measure.
"""
