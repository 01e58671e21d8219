"""Output of commands.

console: standard output and standard error; progress.
streams: the standard streams, closed, full or broken.
bar: a progress bar that shows nothing; `tables` draws one.
tables: tables and progress bars for people.
run_summary: a run's counts and their reconciliation.
embedded_run: the progress and the summary of a run that this process scores.
result_rows: result rows as CSV, JSON, Parquet and sheets.
result_table: result rows as a table.
comparison_page: a model beside the one in use.
private_file: writes a file that only its owner reads.
drift_page: the drift of a run, with histograms.
card_page: a model's card for people.
follow: follows a run until it ends.
"""
