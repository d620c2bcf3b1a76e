"""What a Doubter is worth: the same questions to a base and its Doubter, judged against each other and the baselines.

`runner.evaluate` is the command. The metrics are in `metadeploy.metrics`, the plots in `metadeploy.plots`.
"""
