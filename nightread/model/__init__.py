"""The model bundle: what is served, and what is known about it.

card: `card.json`, everything that must be known about a network.
bundle: finds, reads and checks a bundle's folder.
onnx_file: looks into an ONNX file without the package onnx.
gate: the input gate's rule, which rejects what is no frontal chest X-ray.
drift: compares the measurements of a run with a reference.
training_folder: the files that a trainer leaves and an exporter reads.
"""
