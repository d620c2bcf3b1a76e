"""The sidecar: a small GGUF file that holds a trained wrapper, read and written here."""

from metadeploy.sidecar.examine import Examination, examine
from metadeploy.sidecar.reader import Sidecar, read_sidecar
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, FORMAT_VERSION, WrapperConfig
from metadeploy.sidecar.writer import Metadata, WriteReport, write_sidecar

__all__ = [
    "DEFAULT_REFUSAL_TEXT",
    "FORMAT_VERSION",
    "Examination",
    "Metadata",
    "Sidecar",
    "WrapperConfig",
    "WriteReport",
    "examine",
    "read_sidecar",
    "write_sidecar",
]
