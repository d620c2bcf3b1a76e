"""Write sidecars: validate first, then write tensor by tensor, atomically.

If an export is interrupted, the old file stays complete and no partial new file is left behind (metadeploy/_files.py).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from metadeploy._files import replacing
from metadeploy._types import OutType
from metadeploy.errors import SidecarError
from metadeploy.sidecar import keys
from metadeploy.sidecar.gguf_file import Value
from metadeploy.sidecar.layout import Dims, infer, is_matrix
from metadeploy.sidecar.quants import nbytes_of, quantize
from metadeploy.sidecar.rules import transformer_keys
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, FORMAT_VERSION, WrapperConfig
from metadeploy.sidecar.writable import Metadata, check_head, check_wrapper, padded, template_kwargs

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = [
    "LazyArray",
    "Metadata",
    "OutType",
    "Progress",
    "WriteReport",
    "base_model_keys",
    "check_target",
    "write_sidecar",
]

#: Called after each tensor with the number of bytes that are written, and of all bytes.
Progress: TypeAlias = Callable[[int, int], None]

_Q8_ROW: Final = 32
_HUB_ID: Final = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_HUB_URL: Final = "https://huggingface.co/{id}"


@dataclass(frozen=True)
class LazyArray:
    """A tensor that is loaded when it is written, so that only one is in memory at a time.

    Attributes:
        shape: shape in PyTorch order.
        load: returns float32 of that shape.
    """

    shape: tuple[int, ...]
    load: Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class WriteReport:
    """A report on a written sidecar.

    Attributes:
        path: the file.
        size: its size in bytes.
        tensor_types: number of tensors by type, such as ``{"F32": 99, "Q8_0": 55}``.
        n_parameters: number of elements of all tensors.
        notes: notes for a summary, for example which matrices could not be Q8_0.
    """

    path: Path
    size: int
    tensor_types: Mapping[str, int]
    n_parameters: int
    notes: tuple[str, ...]


def write_sidecar(
    path: str | Path,
    config: WrapperConfig,
    tensors: Mapping[str, NDArray[np.float32] | LazyArray],
    *,
    outtype: OutType = "f32",
    metadata: Metadata | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WriteReport:
    """Write a sidecar.

    Only weight matrices have the type ``outtype``; norms, biases, gates, preferences, queries and position embeddings
    stay F32. With q8_0, a matrix whose rows are not a multiple of 32 is written as F16.

    Args:
        path: the file; its directory must exist.
        config: the config of the wrapper.
        tensors: tensors by sidecar name, float32 in PyTorch order; written in this order.
        outtype: type of the weight matrices.
        metadata: descriptive keys.
        force: whether an existing file may be replaced.
        progress: called after each tensor.

    Returns:
        A report.

    Raises:
        SidecarError: the wrapper contradicts itself, or a reader would refuse it (the message lists all faults); a
            value is not finite or too large for the type; the file exists and ``force`` is False; or it cannot be
            written.
    """
    path = Path(os.path.realpath(path))
    subject = f"sidecar '{path}'"
    if outtype not in get_args(OutType):
        raise SidecarError(f"{subject}: outtype is '{outtype}', expected one of {', '.join(get_args(OutType))}")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    metadata = metadata or Metadata()
    check_wrapper(subject, config, metadata, shapes)
    check_target(path, subject, force=force)
    dims = infer(shapes, encoder_type=config.encoder_type)
    types = {name: _stored_type(name, shape, outtype) for name, shape in shapes.items()}
    try:
        with replacing(path) as temporary:
            _write(temporary, subject, config, dims, metadata, tensors, types, outtype, progress)
        size = path.stat().st_size
    except OSError as problem:
        raise SidecarError(f"{subject}: cannot be written: {problem.strerror or problem}") from problem
    f16_fallbacks = [name for name, kind in types.items() if outtype == "q8_0" and kind == "F16"]
    notes = _fallback_note(f16_fallbacks, shapes)
    counts = dict(Counter(types.values()))
    return WriteReport(path, size, counts, sum(int(np.prod(shape)) for shape in shapes.values()), notes)


def check_target(path: Path, subject: str, *, force: bool) -> None:
    """Refuse a path that a sidecar cannot be written to.

    Raises:
        SidecarError: the directory does not exist, or the path is not a file or may not be replaced.
    """
    if not path.parent.is_dir():
        raise SidecarError(f"{subject}: its directory does not exist (hint: create it first)")
    if path.is_dir():
        raise SidecarError(f"{subject}: is a directory, expected a file name")
    if path.exists() and not path.is_file():
        raise SidecarError(f"{subject}: is not a regular file and would be replaced by one")
    if path.exists() and not force:
        raise SidecarError(f"{subject}: exists already (hint: --force or force=True replaces it)")


def _stored_type(name: str, shape: tuple[int, ...], outtype: OutType) -> str:
    if not is_matrix(name, shape) or outtype == "f32":
        return "F32"
    if outtype == "q8_0" and shape[-1] % _Q8_ROW:
        return "F16"
    return outtype.upper()


def _fallback_note(names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    if not names:
        return ()
    rows = ", ".join(str(row) for row in sorted({shapes[name][-1] for name in names}))
    return (f"{len(names)} matrices are F16, not Q8_0: their rows ({rows}) are not a multiple of {_Q8_ROW}",)


def _write(
    temporary: Path,
    subject: str,
    config: WrapperConfig,
    dims: Dims,
    metadata: Metadata,
    tensors: Mapping[str, NDArray[np.float32] | LazyArray],
    types: Mapping[str, str],
    outtype: OutType,
    progress: Progress | None,
) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(temporary, keys.ARCH_META_SPIDER)
    try:
        _add_general_keys(writer, config, metadata, types, outtype)
        _add_wrapper_keys(writer, config, dims)
        sizes = {}
        for name, tensor in tensors.items():
            sizes[name] = nbytes_of(types[name], tensor.shape) or 0
            # with a dtype other than uint8, gguf expects the shape in elements
            writer.add_tensor_info(
                name, tensor.shape, np.dtype(np.float32), sizes[name], raw_dtype=GGMLQuantizationType[types[name]]
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for file in writer.fout or ():
            file.flush()
        check_head(temporary, subject, sum(padded(size) for size in sizes.values()))
        total, done = sum(sizes.values()), 0
        for name, tensor in tensors.items():
            writer.write_tensor_data(_stored(subject, name, tensor, types[name]))
            done += sizes[name]
            if progress is not None:
                progress(done, total)
        for file in writer.fout or ():
            file.flush()
    finally:
        # also after a failure, because Windows cannot remove an open file
        for file in writer.fout or ():
            file.close()


def _stored(subject: str, name: str, tensor: NDArray[np.float32] | LazyArray, kind: str) -> NDArray[Any]:
    values = np.ascontiguousarray(tensor.load() if isinstance(tensor, LazyArray) else tensor, dtype=np.float32)
    if values.shape != tuple(tensor.shape):
        raise SidecarError(
            f"{subject}: tensor '{name}' has shape {list(values.shape)}, expected {list(tensor.shape)} as announced"
        )
    if not np.isfinite(values).all():
        raise SidecarError(f"{subject}: tensor '{name}' has values that are not finite (diverged training?)")
    try:
        return quantize(values, kind)
    except OverflowError as fault:
        raise SidecarError(f"{subject}: tensor '{name}' {fault} (hint: --outtype f32)") from None


def _add_general_keys(
    writer: GGUFWriter, config: WrapperConfig, metadata: Metadata, types: Mapping[str, str], outtype: OutType
) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    file_types = {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "bf16": LlamaFileType.MOSTLY_BF16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }
    base = _split_base_model(config.base_model)[1]
    writer.add_type("adapter")
    kind = config.kind.replace("_", " ").capitalize()
    writer.add_name(metadata.name or (f"{kind} for {base}" if base else kind))
    writer.add_version(metadata.version)
    writer.add_license(metadata.license or "unknown")
    writer.add_description(
        metadata.description or f"metacognitive wrapper ({config.encoder_type}) for {base or 'an unnamed base model'}"
    )
    for key, value in base_model_keys(config.base_model).items():
        if isinstance(value.value, int):
            writer.add_uint32(key, value.value)
        else:
            writer.add_string(key, str(value.value))
    writer.add_file_type(file_types[outtype])
    if "Q8_0" in types.values():
        writer.add_quantization_version(GGML_QUANT_VERSION)


def base_model_keys(base_model: str | None) -> dict[str, Value]:
    """Return the ``general.base_model.*`` keys of a base.

    Args:
        base_model: a hub id, a name or a path; None if unknown.

    Returns:
        Values by key; empty if there is no name. Only a hub id has an organization and a URL.
    """
    organization, base = _split_base_model(base_model)
    if not base:
        return {}
    values = {"general.base_model.count": Value("u32", 1), "general.base_model.0.name": Value("str", base)}
    if organization:
        values["general.base_model.0.organization"] = Value("str", organization)
        values["general.base_model.0.repo_url"] = Value("str", _HUB_URL.format(id=f"{organization}/{base}"))
    return values


def _split_base_model(base_model: str | None) -> tuple[str, str]:
    """Return the organization (only of a hub id) and the name of a base (without the directories of a local path)."""
    if not base_model:
        return "", ""
    if _HUB_ID.fullmatch(base_model):
        organization, name = base_model.split("/")
        return organization, name
    return "", re.split(r"[/\\]", base_model.rstrip("/\\"))[-1]


def _add_wrapper_keys(writer: GGUFWriter, config: WrapperConfig, dims: Dims) -> None:
    integers = {
        keys.FORMAT_VERSION: FORMAT_VERSION,
        keys.HIDDEN_DIM: config.hidden_dim,
        keys.BOTTLENECK_DIM: config.bottleneck_dim,
        keys.NUM_COGNITIVE_TOKENS: config.num_cognitive_tokens,
        keys.CA_NUM_HEADS: config.ca_num_heads,
        keys.ENC_NUM_HEADS: config.enc_num_heads,
        keys.BASE_BLOCK_COUNT: config.base_block_count,
        **transformer_keys(dims),
    }
    # a wrapper that has no refusal must not seem to have the default one
    has_refusal = config.declines or config.refusal_text != DEFAULT_REFUSAL_TEXT
    strings = {
        keys.ENCODER_TYPE: config.encoder_type,
        keys.GATE_ACTIVATION: "tanh",
        keys.KIND: config.kind,
        keys.INJECT_FROM: config.inject_from,
        keys.REFUSAL_TEXT: config.refusal_text if has_refusal else None,
        keys.PROMPT_FORMAT: config.prompt_format,
        keys.ANSWER_SUFFIX: config.answer_suffix,
        keys.CHAT_TEMPLATE_KWARGS: template_kwargs(config),
        keys.CHECKPOINT_SHA256: config.checkpoint_sha256,
    }
    for key, number in integers.items():
        if number is not None:
            writer.add_uint32(key.format(prefix=keys.PREFIX_META_SPIDER), number)
    for key, text in strings.items():
        if text:
            writer.add_string(key.format(prefix=keys.PREFIX_META_SPIDER), text)
    if config.refusal_token_ids is not None:
        writer.add_array(keys.REFUSAL_TOKEN_IDS.format(prefix=keys.PREFIX_META_SPIDER), list(config.refusal_token_ids))
    if config.refusal_bias:
        writer.add_float32(keys.REFUSAL_BIAS.format(prefix=keys.PREFIX_META_SPIDER), config.refusal_bias)
    writer.add_array(keys.TARGET_LAYERS.format(prefix=keys.PREFIX_META_SPIDER), list(config.target_layers))
    writer.add_array(keys.CROSS_ATTN_LAYERS.format(prefix=keys.PREFIX_META_SPIDER), list(config.cross_attn_layers))
