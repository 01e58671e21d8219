"""The worklist page.

app: the application and its routes.
guard: security headers and the check of the Host header.
filters: filters and positions in the URL.
pages: the request handlers.
showing: templates, and formatting of values for people.
errors: error pages.
"""
