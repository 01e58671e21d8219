"""The report of a run: one file without a server, for the morning after.

run_report: what a report says, as plain values.
pictures: thumbnails and activation maps of the listed scans.
charts: histograms as SVG.
page: the report as HTML and as text.
model_pages: a model's card, and the shadow of a run, as HTML.
notice: the end of a run, told by mail, chat or webhook.
notice_child: the process that brings one notice to one address.
"""
