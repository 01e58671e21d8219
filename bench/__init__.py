"""`nightread bench`: how fast this machine scores, beside its own limit.

bench: one measurement, round by round.
scans: the scans to measure with.
stages: each stage of a scan's way alone.
ways: whole runs, by `score` and by workers.
servers: Redis and PostgreSQL for the workers of a measurement.
report: medians and ratios.
chart: draws them as SVG.
"""
