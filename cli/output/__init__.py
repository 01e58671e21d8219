"""What commands print.

console: standard output and standard error; progress.
tables: tables for people.
run_summary: a run's counts and their reconciliation.
result_rows: result rows as table, JSON and Parquet.
card_page: a model's card for people.
follow: follows a run until it ends.
"""
