"""The worklist page.

app: the application and its routes.
server: serves it over HTTP.
access: users and their roles.
sessions: signed sessions, and attempts to log in.
guard: what every request meets first: headers, Host, visitor, forms.
login: login, logout and the page of all actions.
identity_provider: login by an OpenID Connect identity provider.
lookup: what an address names.
stored_card: what pages read of a stored card.
api: the HTTP API: its operations.
api_results: its operations that give results.
api_answers: what they read of requests, and how they answer.
api_models: what the HTTP API takes and gives, as types.
openapi: the OpenAPI document.
filters: filters and positions in the URL.
facet_lists: values by which a worklist is filtered, with their counts.
pages: lists of runs and scans, their CSV, and the health.
reason_page: why scans of a run have no score.
model_pages: models, their cards, and two on one run.
queue_page: workers, what waits, and disks.
drift_page: a run beside the training data, and over nights.
scan_page: one scan and its pictures.
marks: marks on scans.
run_actions: retry and cancel.
recent: a few values that cost time.
pictures: reads, checks and draws known scans.
thumbnail_cache: thumbnails on disk, within a bound.
showing: templates, and formatting of values for people.
errors: error pages.
"""
