"""Measures a Doubter: the same questions to a base and its Doubter, compared with each other and with baselines.

`runner.evaluate` is the command. The metrics are in `metadeploy.metrics`, the plots in `metadeploy.plots`.
"""
