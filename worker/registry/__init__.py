"""Model bundles on this machine and their stages in the database.

choose: finds the model of a new run.
comparison: a model beside the one in use, and what speaks against a promotion.
import_model: takes in a bundle, or an ONNX file with a card.
inventory: lists the bundles of this machine and of the database.
promote: promotes, rolls back and retires models.
"""
