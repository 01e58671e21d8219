"""Model bundles on this machine and their stages in the database.

choose: finds the model of a new run.
import_model: takes in a bundle, or an ONNX file with a card.
inventory: lists the bundles of this machine and of the database.
promote: promotes, rolls back and retires models.
"""
