"""The ledger: SQLite embedded, PostgreSQL in production; one file for each table or question.

types: enums and SQL types.
columns: the parts of tables.
tables: the tables.
page_tables: those that users of the worklist page write.
views: the views that people query.
postgresql: engines of PostgreSQL servers and poolers.
engine: connections, read and write transactions.
server: version, encoding and connections of a PostgreSQL server.
schema: brings the tables up to date.
dialects: what SQLite and PostgreSQL write differently.
bulk: many rows in and out.
partitions: scans by the month of their run, on PostgreSQL.
partition_change: the change of a database to partitions.
runs: makes, finds, closes and retries runs.
run_history: earlier runs like a run.
cancellation: ends a run before its scans are scored.
guards: what the guards of runs found.
known_scans: files that a model has come across before.
schedules: schedules and their nights.
owner: the process that scores an embedded run.
jobs: claims, renews and ends jobs.
leases: who works on what.
due_jobs: jobs to publish, and in-flight messages.
pace: rate, place in the queue and estimated end of an open run.
job_results: stores the results of a job.
scored_scans: scans joined with their scores under the model of their run.
contents: predictions and measurements by SHA-256.
measurements: what scans measure.
tallies: the counts of a run.
folder_counts: decisions of ended runs by folder and day.
worklist: a run's scans in the order of their scores, page by page.
worklist_request: what a page of it is asked for.
worklist_parts: its parts in the order of indexes, and the search through them.
facets: folders, devices and views of a run's scans.
results: the rows of a run.
results_csv: the same as CSV.
result_files: the same as Parquet or a sheet.
studies: studies of all runs, page by page.
notices: ended runs that somebody is to be told of.
run_report: what a report counts and lists.
marks: what users say of scans, and labels from it.
page_actions: what users of the worklist page did.
scan_record: all that is stored of one scan.
deliveries: what is sent to other systems.
study_results: the scored instances of a run by study.
stored_scans: what is stored of single scans.
changes: what became terminal since a program last asked.
model_pairs: the scores of two models on one run.
retention: deletes old runs.
backup: copies of the database, and back.
metrics: figures of the whole ledger for monitoring.
consistency: the rules that the rows must obey.
registry: models and their stages.
migrations: Alembic revisions.
"""
