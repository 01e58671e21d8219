"""Training Keras networks.

train: the steps of a training.
calibrate: a bundle with the probabilities and thresholds of one site; needs no TensorFlow.
teachers: finished trainings whose mean opinion another network learns.
record: the files that a training leaves.
errors: the errors of data sets and trainings.
data: data sets, splits and their arrays.
architectures: the networks, one file for each.
fit: fitting a network.
evaluation: what a fitted network is worth.
"""
