"""Deprecated: `metadeploy.metrics` has these names."""

from metadeploy._deprecated import moved

__getattr__ = moved(__name__, "metadeploy.metrics")
