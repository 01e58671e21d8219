"""The worklist page.

app: the application and its routes.
guard: headers, hosts and limits of a request.
filters: the filters in the address.
pages: the pages.
showing: how values are written for people.
errors: error pages.
"""
