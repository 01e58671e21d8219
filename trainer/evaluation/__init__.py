"""What a fitted network is worth.

part_scores: scores the parts of the split.
metrics: figures with confidence intervals.
curves: ROC, precision-recall and reliability curves.
operating_points: thresholds and the abstain band.
calibration: Platt scaling, folded into the last layer.
gate: fits the input gate.
external: evaluates a network on another folder of labelled scans.
plots: draws them.
report: writes `report.html`.
"""
