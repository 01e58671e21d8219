"""One file for each command, or for each group of commands.

score: score, enqueue, retry, cancel, demo
runs: runs, status, results
worker: worker, beat, sweep
models: models list, show, check
models_change: models import, promote, rollback, retire
shadow: shadow
drift: drift
train: train, export
evaluate: evaluate, predict
data: data fetch
doctor: doctor, db upgrade
bench: bench
"""
