"""A trained wrapper as PyTorch modules: the encoder and one cross-attention per injected layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metadeploy.errors import CheckpointError, LayersUnknownError, faults_message
from metadeploy.reference.cross_attention import BottleneckCrossAttention
from metadeploy.reference.encoders import build_encoder
from metadeploy.sidecar.layout import infer
from metadeploy.sidecar.spec import WrapperConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Doubter(nn.Module):
    """Encoder and cross-attentions of a wrapper, in float32 and in evaluation mode.

    ``state_dict()`` has the sidecar's tensor names: ``enc.<name>`` and ``ca.<layer>.<name>``.

    Attributes:
        config: what the wrapper is.
        source: where it came from, for messages.
        enc: the encoder.
        ca: cross-attention by layer number (as text, which is what ``nn.ModuleDict`` takes).
    """

    def __init__(self, config: WrapperConfig, encoder: nn.Module, *, source: str = "doubter") -> None:
        """Put an encoder beside fresh cross-attentions; ``from_tensors`` and ``from_checkpoint`` load trained ones.

        Args:
            config: what the wrapper is.
            encoder: maps [N, D] to [C, D].
            source: where it comes from, for messages.
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
            config: what the wrapper is.
            tensors: every tensor under its sidecar name, in PyTorch's shape and any floating dtype. Those that belong to
                no part of such a wrapper are ignored, as the sidecar's reader does.
            source: where they come from, for messages.

        Returns:
            The wrapper with a float32 copy of the tensors.

        Raises:
            CheckpointError: tensors are missing or of a wrong shape (all are named), or a width cannot be split into
                the heads.
        """
        dims = infer({name: tuple(t.shape) for name, t in tensors.items()})
        try:
            # on the meta device nothing is allocated, nor initialised in vain
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
        # a copy, since the caller's arrays may be read-only or memory-mapped
        state = {name: torch.asarray(tensors[name], dtype=torch.float32, copy=True) for name in expected}
        doubter.load_state_dict(state, strict=True, assign=True)
        return doubter.requires_grad_(False).eval()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        run_json: str | Path | None = None,
        target_layers: Sequence[int] | str | None = None,
        cross_attn_layers: Sequence[int] | str | None = None,
        hidden_dim: int | None = None,
        num_layers: int | None = None,
    ) -> Doubter | PendingDoubter:
        """Load a trained wrapper, with the code that ``metadeploy export`` uses.

        Args:
            path: a checkpoint (``.pt`` or ``.safetensors``), a run directory, or a sidecar (``.gguf``).
            run_json: the run's manifest; the one beside the checkpoint where None.
            target_layers: layers whose outputs the encoder reads, where the files do not say; also as ``"21-31"``.
            cross_attn_layers: layers of the injection, likewise.
            hidden_dim: width of the base, checked against the tensors.
            num_layers: number of decoder blocks of the base; needed for ``"late"``.

        Returns:
            The wrapper; or, where nothing tells its layers yet, a pending one that the pipeline resolves with the
            layers of its own config when it is attached.

        Raises:
            CheckpointError: the checkpoint or run.json is unusable or contradicts itself or the arguments.
            SidecarError: the same for a sidecar.
        """
        path = Path(path)
        if _is_gguf(path):
            return _from_sidecar(path)
        options: dict[str, Any] = {"run_json": run_json, "hidden_dim": hidden_dim, "num_layers": num_layers}
        pending = PendingDoubter(path=path, options=options)
        if target_layers is not None or cross_attn_layers is not None:
            return pending.resolve(target_layers=target_layers, cross_attn_layers=cross_attn_layers)
        try:
            return pending.resolve()
        except LayersUnknownError:
            return pending

    def forward(self, activations: Tensor) -> Tensor:
        """Encode activations [N, D] into cognitive tokens [C, D]."""
        tokens: Tensor = self.enc(activations)
        return tokens

    def cross_attention(self, layer: int) -> BottleneckCrossAttention:
        """The cross-attention at the output of decoder block ``layer``."""
        module = self.ca[str(layer)]
        assert isinstance(module, BottleneckCrossAttention)
        return module

    @property
    def gates(self) -> dict[int, float]:
        """tanh(gate) of each cross-attention layer."""
        return {layer: float(torch.tanh(self.cross_attention(layer).gate)) for layer in self.config.cross_attn_layers}


@dataclass(frozen=True)
class PendingDoubter:
    """A checkpoint that does not tell its layers: ``MetaSpiderPipeline.attach`` resolves it with its own.

    Attributes:
        path: the checkpoint.
        options: what ``Doubter.from_checkpoint`` was told about it.
    """

    path: Path
    options: Mapping[str, Any]

    def resolve(
        self,
        *,
        target_layers: Sequence[int] | str | None = None,
        cross_attn_layers: Sequence[int] | str | None = None,
        num_layers: int | None = None,
    ) -> Doubter:
        """Load the checkpoint for these layers.

        Args:
            target_layers: layers whose outputs the encoder reads.
            cross_attn_layers: layers of the injection.
            num_layers: number of decoder blocks of the base, where known.

        Returns:
            The wrapper.

        Raises:
            LayersUnknownError: the layers are still not known.
            CheckpointError: the checkpoint is unusable, or its tensors contradict the layers.
        """
        from metadeploy.export.checkpoint import load_wrapper

        options = dict(self.options)
        if num_layers is not None:
            options["num_layers"] = num_layers
        wrapper = load_wrapper(self.path, target_layers=target_layers, cross_attn_layers=cross_attn_layers, **options)
        return Doubter.from_tensors(wrapper.config, wrapper.tensors, source=f"checkpoint {str(self.path)!r}")


def _from_sidecar(path: Path) -> Doubter:
    from metadeploy.sidecar.reader import read_sidecar

    sidecar = read_sidecar(path)
    return Doubter.from_tensors(sidecar.config, sidecar.tensors, source=f"sidecar {str(path)!r}")


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return path.suffix == ".gguf"  # let the reader say that it is missing
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
