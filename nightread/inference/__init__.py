"""ONNX Runtime: from prepared tensors to scores.

early_open: opens the model on a thread while the command starts.
session: the ONNX Runtime session, on the device that was asked for; nothing else opens one.
bundle_check: checks a bundle on this machine; compares scores in batches of several sizes.
scorer: scores batches, and judges each scan by the input gate.
batch_tuner: finds the batch size that is fastest on this machine.
"""
