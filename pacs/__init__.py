"""From the PACS and back to it: the extra `dicom`.

ae_title: names and addresses of DICOM applications.
quiet_logs: keeps the DICOM libraries from logging what they read.
spool: whole files of received instances, by date and study.
batches: which instances of the spool belong to which run, on disk.
socket_guard: limits on what one connection may send and how long it may take.
tls: certificates of associations.
listener: takes instances over the network into the spool.
intake: enqueues the studies of a spool once they are quiet.
receiver: listener and intake until they are stopped, for `nightread receive`.
receiver_health: health and metrics of a receiver.
structured_report: a study's results as a DICOM Structured Report.
secondary_capture: a scored instance as a picture, with its score burnt in.
study_reports: the reports and pictures of a run.
association: associations with other applications, as the one that asks.
destination: where objects are sent, by C-STORE or STOW-RS.
sender: sends the objects of a run, each at most once.
archive: where radiographs are fetched from, by DICOMweb or C-MOVE.
fetcher: a night's radiographs from an archive into a spool, for `nightread fetch`.
nights: the nights of schedules that are fetched from an archive, and that are sent to a destination.
conformance: the tables of the conformance statement.
"""
