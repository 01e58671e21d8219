"""One file for each command, named as it is typed; `cli.main` has the table.

score: scores scans in this process.
predict: scores single scans.
enqueue: creates a run for workers.
retry: queues the failed scans of a run again.
cancel: ends a run.
demo: draws a night of synthetic scans and scores it.
runs: lists the runs.
status: shows the progress of a run.
results: prints or exports the results of a run.
drift: compares a run's scans with the training data or with another run.
report: writes the report of a run.
notify: sends the notice of a run.
marks: `marks export` writes labels from the marks of the worklist page.
web: serves the worklist page.
verify: scores a run again and compares.
explain: what a reason code or an exit code means.
receive: takes scans from a PACS or a modality.
fetch: a night's radiographs from an archive.
send: results back to a PACS.
worker: scores jobs.
beat: sweeps on time.
sweep: publishes lost jobs now.
schedule: `schedule add`, `list`, `remove` and `run`.
train: trains a network on labelled scans.
evaluate: computes a network's metrics on labelled scans.
export: converts a trained network into a model bundle.
calibrate: makes a bundle with the probabilities and thresholds of one site.
shadow: scores a past run with another model.
data: `data fetch` downloads a data set.
models: `models list` and `models show`, the registry of model bundles.
models_check: `models check` checks a bundle on this machine.
models_import: `models import` imports a bundle or an ONNX file.
models_promote: `models promote`, once the figures have been seen.
models_stage: `models rollback` and `retire`, the stages of models.
config: shows the settings and their sources.
doctor: checks what a host needs before its first night.
bench: measures scoring speed against the limit of this machine.
metrics: serves metrics for Prometheus.
prune: deletes runs that ended long ago.
db: `db upgrade`, `backup`, `restore` and `check`, the results database.
"""
