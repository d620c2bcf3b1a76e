"""Read checkpoint files (PyTorch and safetensors) without executing code from them.

Every pickle is treated as hostile. It is loaded with ``weights_only=True``, which allows only tensors and plain data.
For a pickle that needs more, the error says why it is refused, and how to save it as plain data.
"""

from __future__ import annotations

import importlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from metadeploy._json import JSONFault, parse
from metadeploy.checkpoint.names import unwrap
from metadeploy.errors import CheckpointError, MissingDependencyError, faults_message

if TYPE_CHECKING:
    import torch

__all__ = ["RawCheckpoint", "find_checkpoint", "read_checkpoint"]

_USUAL_NAMES: Final = ("doubter_checkpoint.pt", "doubter_checkpoint.safetensors", "goal_anchor.pt")
_SUFFIXES: Final = (".pt", ".pth", ".safetensors")
_REQUIRED: Final = ("config", "encoder_state", "ca_state")
_LAYER_LISTS: Final = ("target_layers", "cross_attn_layers")
_PREFIXES: Final = (("encoder_state.", "enc."), ("ca_state.", "ca."), ("enc.", "enc."), ("ca.", "ca."))
#: Scalars that have no dimension in some files; the sidecar has [1].
_SCALARS: Final = re.compile(r"ca\.[0-9]+\.gate|enc\.layer_gates\.[0-9]+")
_MODULE: Final = re.compile(r"enc\.|ca\.[0-9]+\.")
_GLOBAL: Final = re.compile(r"GLOBAL ([\w.]+)")

#: The lambda refers to nothing outside itself, so that the lines work wherever they are pasted.
_RESAVE: Final = """\
holds objects ({names}) and not plain data only; loading them would run code, which is refused.
  If you trust its source, save it once as plain data, in the environment that wrote it:

      import torch
      plain = lambda x, f: (
          x if hasattr(x, "untyped_storage") or type(x) in (type(None), bool, int, float, str)
          else f(x._value_, f) if hasattr(x, "_value_")  # an enum
          else f(x.tolist(), f) if hasattr(x, "tolist")  # NumPy
          else f(x.state_dict(), f) if hasattr(x, "state_dict")
          else {{k if type(k) in (int, str) else str(f(k, f)): f(v, f) for k, v in x.items()}} if hasattr(x, "items")
          else str(x) if isinstance(x, (str, bytes)) or hasattr(x, "__fspath__")  # a path
          else {{k: f(getattr(x, k), f) for k in x.__dataclass_fields__}} if hasattr(x, "__dataclass_fields__")
          else f(vars(x), f) if hasattr(x, "__dict__")
          else [f(v, f) for v in x] if hasattr(x, "__iter__")
          else str(x)
      )
      checkpoint = torch.load({path!r}, map_location="cpu", weights_only=False)  # runs the file's code
      torch.save(plain(checkpoint, plain), {plain!r})

  then export {plain!r}."""


@dataclass(frozen=True)
class RawCheckpoint:
    """The content of a checkpoint file, not yet interpreted.

    Attributes:
        path: the file.
        tensors: tensors by sidecar name (``enc.<name>``, ``ca.<layer>.<name>``), dtype as in the file.
        config: the training configuration.
        extras: the other top-level entries: ``format_version``, ``target_layers``, ``cross_attn_layers``, ….
        notes: notes for the summary, such as the parts that were removed from the names.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def setting(self, key: str) -> Any:
        """Return a setting from the top level, otherwise from the config; None if neither has it."""
        value = self.extras.get(key)
        return self.config.get(key) if value is None else value


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint file that a path means.

    Args:
        path: a file, or a run directory.

    Returns:
        The file itself. In a directory, the file with the usual name, otherwise the only checkpoint.

    Raises:
        CheckpointError: the path does not exist, or the directory holds no checkpoint or several.
    """
    if not path.is_dir():
        if not path.exists():
            raise CheckpointError(f"checkpoint '{path}': does not exist")
        return path
    for name in _USUAL_NAMES:
        if (path / name).is_file():
            return path / name
    candidates = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise CheckpointError(f"run directory '{path}': holds no checkpoint, expected {' or '.join(_USUAL_NAMES)}")
    names = ", ".join(file.name for file in candidates)
    raise CheckpointError(f"run directory '{path}': holds several checkpoints: {names} (hint: name the one to use)")


def read_checkpoint(path: str | Path) -> RawCheckpoint:
    """Read a checkpoint file.

    Args:
        path: ``.pt`` (zip format, or the format before PyTorch 1.6) or ``.safetensors``, recognized by its first bytes.

    Returns:
        Its content. Tensors of zip and safetensors files are mapped, not loaded.

    Raises:
        CheckpointError: the file is not a checkpoint, is damaged, needs code execution, or has the wrong structure (the
            message lists all faults).
        MissingDependencyError: torch or safetensors is not installed.
    """
    path = Path(path)
    subject = f"checkpoint '{path}'"
    if path.is_dir():
        raise CheckpointError(f"{subject}: is a directory, expected a file")
    try:
        with path.open("rb") as file:
            start = file.read(16)
            size = file.seek(0, 2)
    except FileNotFoundError:
        raise CheckpointError(f"{subject}: does not exist") from None
    except OSError as problem:
        raise CheckpointError(f"{subject}: cannot be read: {problem.strerror}") from None
    if size == 0:
        raise CheckpointError(f"{subject}: is empty (interrupted copy or download?)")
    if start.startswith(b"GGUF"):
        raise CheckpointError(f"{subject}: is a GGUF file already (hint: metadeploy inspect shows its content)")
    if start.startswith(b"PK"):
        _check_archive(path, subject)
        raw = _structure(path, subject, _torch_load(path, subject, mmap=True))
    elif start.startswith(b"\x80"):
        # the format before PyTorch 1.6, or a bare pickle; it cannot be mapped, but is otherwise the same
        raw = _structure(path, subject, _torch_load(path, subject, mmap=False))
    elif start[8:9] == b"{":
        raw = _read_safetensors(path, subject)
    else:
        raise CheckpointError(
            f"{subject}: is neither a PyTorch nor a safetensors file: starts with {start[:8]!r} "
            "(a Git LFS pointer, or a web page instead of the file?)"
        )
    _check_tensors(raw, subject, size)
    return raw


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        package = name.split(".")[0]
        raise MissingDependencyError(
            f"reading checkpoints needs {package}, which is not installed (hint: pip install 'metadeploy[export]')"
        ) from problem


# -- PyTorch


def _check_archive(path: Path, subject: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rsplit("/", 1)[-1] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(
            f"{subject}: is truncated or damaged: its zip directory cannot be read (interrupted copy or download?)"
        ) from None
    if "constants.pkl" in names:
        raise CheckpointError(f"{subject}: is a TorchScript program, expected a dict saved by torch.save")
    if "data.pkl" not in names:
        raise CheckpointError(f"{subject}: is a zip archive, but not one that torch.save writes")


def _torch_load(path: Path, subject: str, *, mmap: bool) -> object:
    torch = _import("torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about pickle protocols; real problems raise an error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as problem:
        raise CheckpointError(f"{subject}: {_refusal(path, str(problem))}") from None
    except Exception as problem:  # a damaged pickle can raise any exception
        hint = "" if mmap else " (the file has the format before PyTorch 1.6, or is a bare pickle)"
        raise CheckpointError(f"{subject}: is truncated or damaged: {_first_line(problem)}{hint}") from None


def _refusal(path: Path, text: str) -> str:
    """Summarize torch's long message about an unpickling error."""
    names = ", ".join(sorted(set(_GLOBAL.findall(text))))
    if names and "is blocked" in text:
        return f"calls {names} when loaded: it looks like an attack and is refused (do not load it by other means)"
    if names:
        file = path.resolve()
        return _RESAVE.format(names=names, path=str(file), plain=str(file.with_name(f"{path.stem}_plain.pt")))
    detail = text.rsplit("WeightsUnpickler error:", 1)[-1].strip().splitlines()
    return f"is not a pickle of tensors and plain data, or is damaged: {detail[0][:200] if detail else 'no details'}"


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]


def _structure(path: Path, subject: str, content: object) -> RawCheckpoint:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{subject}: holds a {type(content).__name__}, expected a dict with {', '.join(_REQUIRED)}"
        )
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        present = ", ".join(repr(key) for key in list(content)[:6]) or "nothing"
        raise CheckpointError(
            f"{subject}: lacks {', '.join(repr(key) for key in missing)}; it holds {present} (hint: not a Doubter "
            "checkpoint, or a bare state dict)"
        )
    wrong = [key for key in _REQUIRED if not isinstance(content[key], Mapping)]
    if wrong:
        wrong_types = [f"'{key}' is a {type(content[key]).__name__}, expected a dict" for key in wrong]
        raise CheckpointError(faults_message(subject, wrong_types))
    faults: list[str] = []
    removed: dict[str, None] = {}
    tensors = _named_tensors(content["encoder_state"], "encoder_state", "enc.", faults, removed)
    for layer, state in content["ca_state"].items():
        number = _layer_number(layer)
        if number is None:
            faults.append(f"ca_state has the key {layer!r}, expected a layer number")
        elif not isinstance(state, Mapping):
            faults.append(f"ca_state[{layer!r}] is a {type(state).__name__}, expected a dict of tensors")
        elif any(name.startswith(f"ca.{number}.") for name in tensors):
            faults.append(f"ca_state has layer {number} twice, as a number and as text")
        else:
            tensors |= _named_tensors(state, f"ca_state[{layer!r}]", f"ca.{number}.", faults, removed)
    if faults:
        raise CheckpointError(faults_message(subject, faults))
    extras = {str(key): value for key, value in content.items() if key not in _REQUIRED}
    return RawCheckpoint(path, tensors, dict(content["config"]), extras, _unwrapped_note(removed))


def _layer_number(key: object) -> int | None:
    if isinstance(key, str) and re.fullmatch(r"[0-9]{1,6}", key):
        return int(key)
    return key if isinstance(key, int) and not isinstance(key, bool) and key >= 0 else None


def _named_tensors(
    state: Mapping[Any, Any], where: str, prefix: str, faults: list[str], removed: dict[str, None]
) -> dict[str, torch.Tensor]:
    torch = _import("torch")
    tensors: dict[str, Any] = {}
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor):
            tensors[str(name)] = tensor
        else:
            faults.append(f"{where}[{name!r}] is a {type(tensor).__name__}, expected a tensor")
    return _unwrap(tensors, where, prefix, faults, removed)


def _unwrap(
    tensors: Mapping[str, Any], where: str, prefix: str, faults: list[str], removed: dict[str, None]
) -> dict[str, Any]:
    """Return the tensors of one module by sidecar name, without the parts that wrapped models add to names."""
    unwrapped = unwrap(tensors.keys())
    removed.update(dict.fromkeys(unwrapped.removed))
    if unwrapped.fault is not None:
        faults.append(f"{where}: {unwrapped.fault}")
    return {f"{prefix}{unwrapped.names[name]}": tensor for name, tensor in tensors.items()}


def _unwrapped_note(removed: Iterable[str]) -> tuple[str, ...]:
    parts = " and ".join(f"'{part}.'" for part in removed)
    return (
        (f"names of tensors had {parts} in them, from a wrapped model (DDP, torch.compile): left out",) if parts else ()
    )


# -- safetensors


def _read_safetensors(path: Path, subject: str) -> RawCheckpoint:
    safetensors = _import("safetensors")
    _import("torch")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as problem:  # the class of the library's error adds nothing to its message
        raise CheckpointError(f"{subject}: is not a valid safetensors file: {_first_line(problem)}") from None
    tensors: dict[str, Any] = {}
    faults: list[str] = []
    removed: dict[str, None] = {}
    unwrapped = unwrap(stored.keys())  # the names of a model that holds both parts
    removed.update(dict.fromkeys(unwrapped.removed))
    for name, tensor in stored.items():
        unwrapped_name = unwrapped.names[name]
        old_prefix, new_prefix = next(
            ((old, new) for old, new in _PREFIXES if unwrapped_name.startswith(old)), ("", "")
        )
        sidecar_name = new_prefix + unwrapped_name.removeprefix(old_prefix)
        if not old_prefix:
            faults.append(
                f"tensor '{name}' has an unknown name, expected enc.*, ca.<layer>.*, encoder_state.* or ca_state.*"
            )
        elif sidecar_name in tensors:
            faults.append(f"tensor '{sidecar_name}' is there twice, under two names")
        else:
            tensors[sidecar_name] = tensor
    if not faults:
        tensors = _unwrap_modules(tensors, faults, removed)
    if faults:
        raise CheckpointError(faults_message(subject, faults))
    extras = {key: _parse_metadata(text) for key, text in metadata.items()}
    config = extras.pop("config", {})
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{subject}: its metadata 'config' is {config!r}, expected a JSON object")
    return RawCheckpoint(path, tensors, config, extras, _unwrapped_note(removed))


def _unwrap_modules(tensors: Mapping[str, Any], faults: list[str], removed: dict[str, None]) -> dict[str, Any]:
    """Unwrap the names inside each module: the encoder, and the cross-attention of each layer."""
    modules: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        match = _MODULE.match(name)
        prefix = match[0] if match else ""
        modules.setdefault(prefix, {})[name.removeprefix(prefix)] = tensor
    unwrapped: dict[str, Any] = {}
    for prefix, module_tensors in modules.items():
        unwrapped |= _unwrap(module_tensors, f"{prefix}*", prefix, faults, removed) if prefix else module_tensors
    return unwrapped


def _parse_metadata(text: str) -> Any:
    """Parse a metadata value of safetensors, which is always text; lists, numbers and objects are JSON in it."""
    try:
        return parse(text)
    except JSONFault:
        return text


# -- both


def _check_tensors(raw: RawCheckpoint, subject: str, size: int) -> None:
    torch = _import("torch")
    faults = []
    for name, tensor in raw.tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            faults.append(f"tensor '{name}' is sparse, quantized or without data, expected a plain dense tensor")
        elif not tensor.is_floating_point():
            faults.append(
                f"tensor '{name}' has dtype {str(tensor.dtype).removeprefix('torch.')}, expected floating point"
            )
        elif tensor.numel() * tensor.element_size() > size:
            # a pickle can give any shape to a single stored number
            faults.append(
                f"tensor '{name}' has shape {list(tensor.shape)}, more than the file of {size} bytes can hold"
            )
        elif tensor.dim() == 0 and _SCALARS.fullmatch(name):
            raw.tensors[name] = tensor.reshape(1)
    if faults:
        raise CheckpointError(faults_message(subject, faults))
