"""Model bundles: the networks that are served, with their cards.

card: `card.json`, the description of a network that programs and people need.
floor: figures that a network in production has at least.
finding_code: what labels mean in SNOMED CT and RadLex.
bundle: finds, reads, checks and writes bundles.
onnx_file: inspects an ONNX file without the package onnx.
gate: the input gate, which rejects pictures that are not frontal chest X-rays.
drift: compares the measurements of a run with a reference.
training_folder: the files that a trainer writes and an exporter reads.
"""
