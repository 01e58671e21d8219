"""`nightread bench`: speed of this machine, compared with its own limit.

bench: one measurement, round by round.
scans: the scans to measure with.
stages: each stage alone, and the limit.
ways: whole runs, by `score` and by workers.
servers: Redis and PostgreSQL for the workers of a measurement.
report: medians and ratios.
chart: draws them as SVG.
"""
