"""One job: claimed, scored, stored.

job: claims a job, scores its scans and commits the results; never raises.
heartbeat: renews the lease while the job is worked on.
scan_files: reads and hashes the files of a job, window by window.
stored: looks up the predictions that exist already.
pipeline: decodes, prepares, scores and judges a job's scans.
"""
