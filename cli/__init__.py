"""The program `nightread`: parses, calls what is below, prints.

main: the command table, and the boundary where an error becomes one line and an exit code.
exits: exit codes.
options: options that several commands share.
train_extra: checks the extra `train` and silences TensorFlow, for `train`, `export` and `evaluate`.
database: opens the database that the settings name.
embedded: scores paths in this process, for `score` and `demo`.
cluster: what `worker`, `beat` and `sweep` share.
commands: one file for each command.
output: tables, summaries and progress.
"""

import gc
import os

# Importing makes 160,000 objects that stay. To look among them for garbage after each 700, as is the default, takes a
# sixth of the time to start; `worker.process` sets the default again.
gc.set_threshold(200_000)
# pydantic would look through every installed package for a plug-in of its own, at each start, and there is none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
