"""One job: claimed, scored, stored.

job: claims a job, scores its scans and commits the results; never raises.
heartbeat: renews the lease while the job is worked on.
pipeline: reads, decodes and scores a job's scans, window by window.
"""
