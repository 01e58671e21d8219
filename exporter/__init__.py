"""From a training folder to a model bundle.

export: the steps of an export.
conversion: Keras to ONNX.
outputs: the outputs of the graph, and what the card says of them.
gate: the input gate in the graph.
precision: float16 and int8.
parity: ONNX against Keras.
accuracy: figures of the converted network on the hold-out.
file_check: the bundle's scores from files, as a worker computes them.
same_pixels: the scores of one scan in several file formats.
drift_reference: the measurements of the hold-out.
"""

import nightread  # noqa: F401  # before ONNX Runtime, which it keeps from reporting to its maker
