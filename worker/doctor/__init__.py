"""What a host needs before its first night, check by check.

finding: a check's result: ok, warn or fail.
machine: what checks share: settings, database and model, each opened once.
host: versions, cores, memory, disk, encoding and files.
decoders: decoding of a small picture of each compression.
database: connection, server, rights, clock.
broker: connection and rights.
model: the model of a new run, its device and its roots; what a worker would do.
checks: the list of all checks, and their run.
"""
