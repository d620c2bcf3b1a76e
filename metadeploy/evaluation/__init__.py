"""What a Doubter is worth: metrics, the runs that feed them, and plots.

Importing this package needs NumPy only; `metadeploy.evaluation.metrics` needs SciPy and scikit-learn, and
`metadeploy.evaluation.plots` matplotlib (all in the extra ``eval``).
"""
