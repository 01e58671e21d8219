"""One file for each command, named as it is typed; `cli.main` has the table.

In the order of the help page:
score, predict, enqueue, retry, cancel, demo
runs, status, results, drift
worker, beat, sweep
train, evaluate, export, shadow
data: data fetch
models: models list, show
models_check: models check
models_import: models import
models_stage: models promote, rollback, retire
doctor, bench
db: db upgrade
"""
