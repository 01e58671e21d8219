"""ONNX Runtime: from prepared tensors to scores.

early_open: opens the model on a thread while the command starts.
session: opens an ONNX Runtime session on the device that was asked for.
bundle_check: checks a bundle on this machine, in batches of several sizes.
scorer: scores batches, and judges each scan by the input gate.
batch_tuner: finds the batch size that is fastest on this machine.
"""
