"""From a PyTorch checkpoint to a sidecar. Needs torch, which is imported when a checkpoint is read and not before."""

from metadeploy.export.checkpoint import Wrapper, load_wrapper
from metadeploy.export.converter import ExportReport, export

__all__ = ["ExportReport", "Wrapper", "export", "load_wrapper"]
