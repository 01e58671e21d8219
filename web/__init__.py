"""The worklist page.

app: the application and its routes.
server: serves it over HTTP.
access: users and their roles.
sessions: signed sessions, and attempts to log in.
guard: what every request meets first: headers, Host, visitor, forms.
login: login, logout and the page of all actions.
lookup: what an address names.
stored_card: what pages read of a stored card.
api: the HTTP API: its operations.
api_models: what the HTTP API takes and gives, as types.
openapi: the OpenAPI document.
filters: filters and positions in the URL.
pages: lists of runs and scans, their CSV, and the health.
scan_page: one scan and its pictures.
marks: marks on scans.
run_actions: retry and cancel.
pictures: reads, checks and draws known scans.
thumbnail_cache: thumbnails on disk, within a bound.
showing: templates, and formatting of values for people.
errors: error pages.
"""
