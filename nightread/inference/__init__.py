"""ONNX Runtime: from file contents to scores.

early_open: opens the model on a thread while the command starts.
session: the ONNX Runtime session, on the device that was asked for; nothing else opens one.
trial: tries a model from elsewhere in a child process with limits.
bundle_check: checks a bundle on this machine; compares scores in batches of several sizes.
scorer: a model opened on one device, checked against its card.
content: one file content from bytes to scores; reads, hashes and decodes it.
scored_file: the file of a scored scan, read again if it still holds the same bytes.
batch_scorer: scores decoded contents in batches, and judges each by the input gate.
batch_tuner: finds the batch size that is fastest on this machine.
evidence: where in one scan a model finds what speaks for a label.
"""
