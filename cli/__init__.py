"""The program `nightread`: parses, calls what is below, prints.

main: the command table, and the boundary where an error becomes one line and an exit code.
exits: exit codes.
options: options that several commands share.
request_options: options of commands that make runs.
request: a request for a run from these options.
global_options: options that every command has.
help_page: help pages as plain text.
completion: completion of arguments by the shell.
offers: runs and models that the shell may complete.
pacs_options: options of the commands that speak with a PACS.
dicom_extra: imports what needs the extra `dicom`.
train_extra: checks the extra `train` and silences TensorFlow, for `train`, `export` and `evaluate`.
database: opens the database that the settings name.
embedded: scores paths in this process, for `score` and `demo`.
cluster: what `worker`, `beat` and `sweep` share.
commands: one file for each command.
output: tables, summaries and progress.
"""

import gc
import os

# Imports create 160,000 lasting objects. Searching them for garbage after each 700, the default, takes a sixth of the
# start-up time; `worker.process` restores the default.
gc.set_threshold(200_000)
# At each start pydantic would search every installed package for plug-ins, and there are none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# The current folder may be the scan folder, and child processes must not import modules from it. Not every one is
# started with -P: Celery starts some for CUDA with `python -c`.
os.environ["PYTHONSAFEPATH"] = "1"
