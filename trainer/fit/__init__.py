"""Fitting a network.

hyperparameters: the settings of a fit.
recipes: settings that go together.
augmentation: varies the scans of a batch.
batches: makes the batches of an epoch.
fit: fits, checkpoints and resumes.
"""
