"""A trained wrapper as PyTorch modules: the encoder, and one cross-attention for each injected layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metadeploy.checkpoint.files import find_checkpoint, read_checkpoint
from metadeploy.checkpoint.layers import LayerSpec, is_bare_preset
from metadeploy.checkpoint.load import load_wrapper
from metadeploy.checkpoint.run_json import find_run_json, read_run_json
from metadeploy.checkpoint.write import write_checkpoint
from metadeploy.errors import CheckpointError, faults_message
from metadeploy.reference.cross_attention import BottleneckCrossAttention
from metadeploy.reference.encoders import build_encoder
from metadeploy.sidecar.layout import infer
from metadeploy.sidecar.reader import read_sidecar
from metadeploy.sidecar.refusal import with_refusal_text
from metadeploy.sidecar.spec import EncoderDtype, WrapperConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Doubter(nn.Module):
    """Encoder and cross-attentions of a wrapper, in float32 and in evaluation mode.

    ``state_dict()`` has the sidecar's tensor names: ``enc.<name>`` and ``ca.<layer>.<name>``.

    Attributes:
        config: type, sizes, layers and settings of the wrapper.
        source: its origin, for messages.
        enc: the encoder.
        ca: cross-attention by layer number (as text, because ``nn.ModuleDict`` has text keys).
    """

    def __init__(self, config: WrapperConfig, encoder: nn.Module, *, source: str = "doubter") -> None:
        """Combine an encoder with new cross-attentions; ``from_tensors`` and ``from_checkpoint`` load trained ones.

        Args:
            config: type, sizes, layers and settings of the wrapper.
            encoder: maps [N, D] to [C, D].
            source: its origin, for messages.
        """
        super().__init__()
        self.config = config
        self.source = source
        self.enc = encoder
        self.ca = nn.ModuleDict(
            {
                str(layer): BottleneckCrossAttention(
                    hidden_dim=config.hidden_dim,
                    bottleneck_dim=config.bottleneck_dim,
                    num_heads=config.ca_num_heads,
                    num_tokens=config.num_cognitive_tokens,
                )
                for layer in config.cross_attn_layers
            }
        )
        self.eval()

    @classmethod
    def from_tensors(
        cls, config: WrapperConfig, tensors: Mapping[str, Tensor | NDArray[np.float32]], *, source: str = "doubter"
    ) -> Doubter:
        """Build a wrapper from its tensors.

        Args:
            config: type, sizes, layers and settings of the wrapper.
            tensors: all tensors by sidecar name, in PyTorch's shape and any floating dtype. Tensors that such a wrapper
                does not have are ignored, as in the sidecar's reader.
            source: their origin, for messages.

        Returns:
            The wrapper with a float32 copy of the tensors.

        Raises:
            CheckpointError: tensors are missing or have a wrong shape (the message lists all), or a width cannot be
                split into the heads.
        """
        dims = infer({name: tuple(t.shape) for name, t in tensors.items()})
        try:
            # the meta device allocates and initializes no weights, which would be overwritten anyway
            with torch.device("meta"):
                doubter = cls(config, build_encoder(config, dims), source=source)
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from error

        expected = {name: tuple(t.shape) for name, t in doubter.state_dict().items()}
        faults = [f"tensor {name!r} is missing" for name in expected.keys() - tensors.keys()]
        faults += [
            f"tensor {name!r} has shape {list(tensors[name].shape)}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
        if faults:
            raise CheckpointError(faults_message(source, sorted(faults)))
        # a copy, because the caller's arrays may be read-only or memory-mapped
        state = {name: torch.asarray(tensors[name], dtype=torch.float32, copy=True) for name in expected}
        doubter.load_state_dict(state, strict=True, assign=True)
        return doubter.requires_grad_(False).eval()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        run_json: str | Path | None = None,
        target_layers: LayerSpec | None = None,
        cross_attn_layers: LayerSpec | None = None,
        hidden_dim: int | None = None,
        num_layers: int | None = None,
        refusal_text: str | None = None,
    ) -> Doubter | PendingDoubter:
        """Load a trained wrapper in the same way as ``metadeploy export``.

        Args:
            path: a checkpoint (``.pt`` or ``.safetensors``), a run directory, or a sidecar (``.gguf``).
            run_json: see `metadeploy.checkpoint.load_wrapper`, like the arguments below.
            target_layers: layers that the encoder reads.
            cross_attn_layers: layers after which the wrapper injects.
            hidden_dim: width of the base.
            num_layers: number of decoder blocks of the base.
            refusal_text: the sentence that the wrapper was trained to decline with.

        Returns:
            The wrapper. If no source has its layers yet (or only ``"late"`` of an unknown number), a pending wrapper,
            which ``MetaSpiderPipeline.attach`` resolves with the layers of its own config and base.

        Raises:
            CheckpointError: the checkpoint or run.json cannot be used, or contradicts itself or the arguments.
            SidecarError: the sidecar cannot be used.
            ValueError: the text cannot be used as a refusal, or wrappers of this kind have none.
        """
        path = Path(path)
        if _is_gguf(path):
            return _from_sidecar(path, refusal_text)
        pending = PendingDoubter(
            path=path,
            run_json=None if run_json is None else Path(run_json),
            target_layers=target_layers,
            cross_attn_layers=cross_attn_layers,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            refusal_text=refusal_text,
        )
        return pending if pending.needs_base() else pending.resolve()

    def save_checkpoint(self, path: str | Path, *, encoder_dtype: EncoderDtype = "float32") -> None:
        """Write a checkpoint in the framework's format 1.1, which `from_checkpoint` and ``metadeploy export`` read.

        Args:
            path: the ``.pt`` file. A failure leaves an old file unchanged.
            encoder_dtype: type of the encoder in the file. The cross-attention is in bfloat16.
        """
        write_checkpoint(Path(path), self.config, self.state_dict(), encoder_dtype=encoder_dtype)

    def forward(self, activations: Tensor) -> Tensor:
        """Encode activations [N, D] into cognitive tokens [C, D]."""
        tokens: Tensor = self.enc(activations)
        return tokens

    @torch.no_grad()
    def encode(self, activations: Tensor) -> Tensor:
        """Encode like ``forward``, in evaluation mode and without gradients."""
        tokens: Tensor = self.eval()(activations)
        return tokens

    def cross_attention(self, layer: int) -> BottleneckCrossAttention:
        """Return the cross-attention at the output of decoder block ``layer``."""
        module = self.ca[str(layer)]
        assert isinstance(module, BottleneckCrossAttention)
        return module

    @property
    def gates(self) -> dict[int, float]:
        """tanh(gate) of each cross-attention layer."""
        return {layer: float(torch.tanh(self.cross_attention(layer).gate)) for layer in self.config.cross_attn_layers}


@dataclass(frozen=True, kw_only=True)
class PendingDoubter:
    """A checkpoint whose layers depend on the base or the pipeline's config.

    ``MetaSpiderPipeline.attach`` resolves it. Attributes: see ``Doubter.from_checkpoint``.
    """

    path: Path
    run_json: Path | None = None
    target_layers: LayerSpec | None = None
    cross_attn_layers: LayerSpec | None = None
    hidden_dim: int | None = None
    num_layers: int | None = None
    refusal_text: str | None = None

    def needs_base(self) -> bool:
        """Return whether no source has the layers yet, or only a preset for a base of unknown depth.

        Raises:
            CheckpointError: the checkpoint or run.json cannot be read.
        """
        target = self.claims("target_layers")
        # a preset and a list of the same layers together determine the number of layers; the tensors list the others
        return not target or (not self.claims("num_layers") and all(map(is_bare_preset, target)))

    def claims(self, key: str) -> list[Any]:
        """Return the values of ``key``, a field of this class, in checkpoint, run.json and the caller's arguments.

        Raises:
            CheckpointError: the checkpoint or run.json cannot be read.
        """
        raw = read_checkpoint(find_checkpoint(self.path))
        manifest_path = find_run_json(raw.path, self.run_json)
        manifest = None if manifest_path is None else read_run_json(manifest_path)
        values = (raw.setting(key), getattr(manifest, key, None), getattr(self, key))
        return [value for value in values if value is not None]

    def resolve(
        self,
        *,
        target_layers: LayerSpec | None = None,
        cross_attn_layers: LayerSpec | None = None,
        num_layers: int | None = None,
    ) -> Doubter:
        """Load the checkpoint, with these layers if no other source has them.

        Args:
            target_layers: layers that the encoder reads.
            cross_attn_layers: layers after which the wrapper injects.
            num_layers: number of decoder blocks of the base.

        Returns:
            The wrapper.

        Raises:
            CheckpointError: the checkpoint cannot be used, contradicts the layers, or still lacks them.
        """
        wrapper = load_wrapper(
            self.path,
            run_json=self.run_json,
            target_layers=target_layers if self.target_layers is None else self.target_layers,
            cross_attn_layers=cross_attn_layers if self.cross_attn_layers is None else self.cross_attn_layers,
            hidden_dim=self.hidden_dim,
            num_layers=num_layers if self.num_layers is None else self.num_layers,
            refusal_text=self.refusal_text,
        )
        return Doubter.from_tensors(wrapper.config, wrapper.tensors, source=f"checkpoint '{self.path}'")


def _from_sidecar(path: Path, refusal_text: str | None) -> Doubter:
    sidecar = read_sidecar(path)
    config = sidecar.config if refusal_text is None else with_refusal_text(sidecar.config, refusal_text)
    return Doubter.from_tensors(config, sidecar.tensors, source=f"sidecar '{path}'")


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return path.suffix == ".gguf"  # the reader reports a missing file
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
