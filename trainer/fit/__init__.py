"""Fitting a network.

hyperparameters: the settings of a fit.
recipes: settings that go together.
augmentation: varies the scans of a batch.
batches: makes the batches of an epoch.
history: one row for each epoch, the best epoch, early stopping.
fit: fits, checkpoints and resumes.
"""
