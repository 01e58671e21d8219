"""The worklist page.

app: the application and its routes.
guard: security headers and the check of the Host header.
filters: filters and positions in the URL.
pages: lists of runs and scans, their CSV, and the health.
scan_page: one scan and its pictures.
pictures: reads, checks and draws known scans.
thumbnail_cache: thumbnails on disk, within a bound.
showing: templates, and formatting of values for people.
errors: error pages.
"""
