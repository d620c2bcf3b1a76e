"""Settings of the reference pipeline: the base model and, if the checkpoint has none, the wrapper's layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, get_args

from metadeploy._checks import faults as check_faults
from metadeploy._checks import layers, visible_text
from metadeploy._types import DType, Quantization
from metadeploy.checkpoint.layers import LayerSpec

__all__ = ["MetaSpiderConfig"]
from metadeploy.errors import ModelLoadError, faults_message


@dataclass(frozen=True, kw_only=True)
class MetaSpiderConfig:
    """Settings of a ``MetaSpiderPipeline``, with the names that published model cards use.

    Layer ``i`` means the output of decoder block ``i``, counted from 0.

    Attributes:
        model_name: the base: a hub id, a folder in Hugging Face format, or a GGUF file (dequantized on load).
        device: a torch device such as ``cpu`` or ``cuda:1``; ``auto`` uses a GPU if there is one.
        dtype: type of the base's weights; ``auto`` uses the model's own (float32 for a GGUF). The wrapper is always
            computed in float32.
        quantization: bitsandbytes quantization of the base: ``int8``, ``nf4``, ``fp4``, or None.
        target_layers: layers whose outputs the encoder reads, as numbers, a range (``"21-31"``) or a preset (``"late"``
            = [2n/3, n), ``"all"``). None uses those of the wrapper's files; if both have them, they must agree.
        cross_attn_layers: layers after which the wrapper injects, in the same forms.
    """

    model_name: str
    device: str = "auto"
    dtype: DType = "auto"
    quantization: Quantization | None = None
    target_layers: LayerSpec | None = None
    cross_attn_layers: LayerSpec | None = None

    def __post_init__(self) -> None:
        """Refuse settings that are not valid, with all faults in one message."""
        allowed: Final[dict[str, tuple[Any, ...]]] = {
            "dtype": get_args(DType),
            "quantization": (None, *get_args(Quantization)),
        }
        layer_numbers = layers().or_none()
        faults = check_faults(
            {
                "model_name": visible_text(),
                "device": visible_text(),
                "target_layers": layer_numbers,
                "cross_attn_layers": layer_numbers,
            },
            vars(self),
        )
        faults += [
            f"{name} is {getattr(self, name)!r}, expected one of {', '.join(map(repr, values))}"
            for name, values in allowed.items()
            if getattr(self, name) not in values
        ]
        if faults:
            raise ModelLoadError(faults_message("MetaSpiderConfig", faults))
