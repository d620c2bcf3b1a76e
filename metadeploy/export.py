"""Convert a PyTorch checkpoint into a sidecar: load and check it, compare it with the base, write it.

torch is imported only when a checkpoint is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import numpy as np
from numpy.typing import NDArray

from metadeploy._checks import check_all, choice, flag, function, instance, layers, path, visible_text, whole_number
from metadeploy._files import refuse_overwriting, sha256
from metadeploy.checkpoint.layers import LayerSpec
from metadeploy.checkpoint.load import Wrapper, load_wrapper
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.sidecar.base_model import check_base, read_base
from metadeploy.sidecar.spec import WrapperConfig
from metadeploy.sidecar.writer import LazyArray, Metadata, OutType, Progress, write_sidecar

if TYPE_CHECKING:
    import torch

__all__ = ["ExportReport", "Wrapper", "export", "load_wrapper"]

_DEFAULT_NAME: Final = "{kind}_sidecar.gguf"


_ARGUMENTS: Final = {
    "checkpoint": path(),
    "output": path().or_none(),
    "outtype": choice(*get_args(OutType)),
    "run_json": path().or_none(),
    "target_layers": layers().or_none(),
    "cross_attn_layers": layers().or_none(),
    "hidden_dim": whole_number(1).or_none(),
    "num_layers": whole_number(1).or_none(),
    "base": path().or_none(),
    "refusal_text": visible_text().or_none(),
    "metadata": instance(Metadata).or_none(),
    "force": flag(),
    "progress": function().or_none(),
}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The result of an export.

    Attributes:
        path: the sidecar.
        size: size of the sidecar in bytes.
        sha256: hex digest of the sidecar.
        outtype: requested type of the weight matrices.
        config: the config of the wrapper, with ``checkpoint_sha256``.
        tensor_types: number of tensors by type.
        n_parameters: number of elements of all tensors.
        gates: strength tanh(gate) of the injection, by cross-attention layer.
        checkpoint: the checkpoint file.
        base: the base that was checked; None if there was none.
        notes: defaults that were used, anything unusual, and matrices that kept a larger type.
    """

    path: Path
    size: int
    sha256: str
    outtype: OutType
    config: WrapperConfig
    tensor_types: Mapping[str, int]
    n_parameters: int
    gates: Mapping[int, float]
    checkpoint: Path
    base: Path | None
    notes: tuple[str, ...]


def export(
    checkpoint: str | Path,
    *,
    output: str | Path | None = None,
    outtype: OutType = "f32",
    run_json: str | Path | None = None,
    target_layers: LayerSpec | None = None,
    cross_attn_layers: LayerSpec | None = None,
    hidden_dim: int | None = None,
    num_layers: int | None = None,
    base: str | Path | None = None,
    refusal_text: str | None = None,
    metadata: Metadata | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Convert a checkpoint into a sidecar.

    Args:
        checkpoint: a ``.pt`` or ``.safetensors`` file, or a run directory.
        output: the sidecar; by default ``doubter_sidecar.gguf`` (for another kind, ``KIND_sidecar.gguf``) beside the
            checkpoint.
        outtype: type of the weight matrices: ``f32``, ``f16``, ``bf16`` or ``q8_0``.
        run_json: see `load_wrapper`.
        target_layers: see `load_wrapper`.
        cross_attn_layers: see `load_wrapper`.
        hidden_dim: see `load_wrapper`.
        num_layers: see `load_wrapper`.
        base: GGUF of the base model, to check width, layers and architecture. Its number of layers is used if no
            other source has one.
        refusal_text: see `load_wrapper`.
        metadata: descriptive keys; the license in run.json, if any, is the default.
        force: whether an existing sidecar may be replaced.
        progress: called after each tensor with the number of bytes that are written, and of all bytes.

    Returns:
        The result.

    Raises:
        CheckpointError: the checkpoint cannot be used, or contradicts run.json or the arguments.
        RunDirError: according to the run.json beside the checkpoint, other questions were collected after the training.
        ModelLoadError: the base is not a readable model.
        ModelMismatchError: the base does not fit.
        SidecarError: the sidecar exists, cannot be written, or a value does not fit its type.
        Error: the sidecar would replace the checkpoint, its run.json or the base.
        MissingDependencyError: torch or safetensors is not installed.
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, the text cannot be used as a refusal, or wrappers of this kind have
            none.
    """
    check_all(_ARGUMENTS, locals())
    wrapper = load_wrapper(
        checkpoint,
        run_json=run_json,
        target_layers=target_layers,
        cross_attn_layers=cross_attn_layers,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        base_block_count=None if base is None else read_base(base).block_count,
        refusal_text=refusal_text,
    )
    if run_json is None and wrapper.run_json is not None:
        RunDir(wrapper.path.parent).refuse_stale_checkpoint()  # run.json would name another base and other prompts
    if base is not None:
        check_base(base, wrapper.config)
    config = replace(wrapper.config, checkpoint_sha256=sha256(wrapper.path))
    target = Path(output) if output is not None else wrapper.path.with_name(_DEFAULT_NAME.format(kind=config.kind))
    manifest = None if wrapper.run_json is None else wrapper.run_json.path
    refuse_overwriting(target, wrapper.path, manifest, base, what="sidecar")
    tensors = {name: _lazy(tensor) for name, tensor in wrapper.tensors.items()}
    written = write_sidecar(
        target,
        config,
        tensors,
        outtype=outtype,
        metadata=_with_license(metadata or Metadata(), wrapper),
        force=force,
        progress=progress,
    )
    return ExportReport(
        path=target,
        size=written.size,
        sha256=sha256(target),
        outtype=outtype,
        config=config,
        tensor_types=written.tensor_types,
        n_parameters=written.n_parameters,
        gates=_gates(wrapper),
        checkpoint=wrapper.path,
        base=None if base is None else Path(base),
        notes=(*wrapper.notes, *_unfollowed(config), *written.notes),
    )


def _unfollowed(config: WrapperConfig) -> tuple[str, ...]:
    if config.prompt_format in (None, "auto"):
        return ()
    return (
        f"prompt_format is '{config.prompt_format}', which is stored and has no effect: the base's chat template is "
        "applied to prompts (if training used another format: --chat-template-file or --raw)",
    )


def _with_license(metadata: Metadata, wrapper: Wrapper) -> Metadata:
    default = wrapper.run_json.license if wrapper.run_json else None
    return replace(metadata, license=metadata.license or default)


def _lazy(tensor: torch.Tensor) -> LazyArray:
    def load() -> NDArray[np.float32]:
        array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
        return array

    return LazyArray(tuple(tensor.shape), load)


def _gates(wrapper: Wrapper) -> dict[int, float]:
    return {layer: math.tanh(float(wrapper.tensors[f"ca.{layer}.gate"])) for layer in wrapper.config.cross_attn_layers}
