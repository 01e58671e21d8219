"""Evaluation of a fitted network.

part_scores: scores the parts of the split, and calibrates the network.
calibration: Platt scaling, folded into the last layer.
metrics: figures with confidence intervals.
auc: area under the ROC curve, for many bootstrap weightings at once.
operating_points: thresholds and the abstain band.
site_scores: labelled scans of one site, and their scores by a bundle.
gate: fits the input gate.
mistakes: finds the worst mistakes.
external: evaluates a network on another folder of labelled scans.
run_scores: judges a past run by own labels.
plots: draws figures, curves and mistakes.
report: writes `report.html`.
"""
