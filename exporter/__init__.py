"""Export: from a training folder to a model bundle.

export: the steps of an export.
conversion: Keras to ONNX.
outputs: outputs of the graph, and their descriptions on the card.
gate: the input gate in the graph.
precision: float16 and int8.
parity: ONNX Runtime against Keras.
accuracy: AUC and decisions of the graph on the hold-out.
file_check: scores from the files of the data set, as a worker computes them.
same_pixels: scores of one scan in several file formats.
drift_reference: measurements of the hold-out.
"""

import nightread  # noqa: F401  # before ONNX Runtime, whose telemetry it disables
