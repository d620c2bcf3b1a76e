"""Removes the parts that wrapped models add to the names of tensors in a state dict.

``DistributedDataParallel`` and ``DataParallel`` prefix every name with ``module.``, ``torch.compile`` with
``_orig_mod.``, and both together nest. FSDP and activation checkpointing add a part in the middle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from metadeploy.sidecar.layout import templates
from metadeploy.sidecar.spec import EncoderType

__all__ = ["Unwrapped", "unwrap"]

#: No module of a wrapper has such a part in its name, so these parts are removed wherever they are.
_FOREIGN: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
#: This could be a real name, so it is only removed if every tensor begins with it.
_LEADING: Final = "module"
#: First parts of the names in encoders and cross-attentions.
_KNOWN: Final = frozenset(
    name.removeprefix("enc.").removeprefix("ca.{layer}.").split(".")[0]
    for encoder_type in get_args(EncoderType)
    for shared in (False, True)
    for name in templates(encoder_type, shared_projector=shared, layer_pos_embed=True)
)


@dataclass(frozen=True)
class Unwrapped:
    """The names of one state dict without the parts that wrapped models add.

    Attributes:
        names: the original name by the name in the file.
        removed: the removed parts, in the order of their first occurrence: ``("_orig_mod", "module")``.
        fault: why the original names are unclear, as a phrase without a subject; None if there is no fault.
    """

    names: dict[str, str]
    removed: tuple[str, ...] = ()
    fault: str | None = None


def unwrap(names: Collection[str]) -> Unwrapped:
    """Remove the parts that wrapped models add to the names of a state dict.

    Args:
        names: all names of one module.

    Returns:
        The original names, or a single fault for the whole module: only some of the names are wrapped, two names become
        the same, or all names share an unknown prefix.
    """
    removed: dict[str, None] = {}
    split_names = {name: name.split(".") for name in names}
    for name, pieces in split_names.items():
        remaining = [piece for piece in pieces if piece not in _FOREIGN]
        removed.update(dict.fromkeys(piece for piece in pieces if piece in _FOREIGN))
        split_names[name] = remaining or pieces
    while split_names and all(pieces[0] == _LEADING and len(pieces) > 1 for pieces in split_names.values()):
        removed[_LEADING] = None
        split_names = {name: pieces[1:] for name, pieces in split_names.items()}
    original = {name: ".".join(pieces) for name, pieces in split_names.items()}
    return Unwrapped(original, tuple(removed), _fault(original))


def _fault(original: Mapping[str, str]) -> str | None:
    wrapped = [name for name in original.values() if name.startswith(f"{_LEADING}.")]
    if wrapped:
        return (
            f"{len(wrapped)} of its {len(original)} names begin with '{_LEADING}.', like those of a model saved from "
            "DistributedDataParallel, expected all or none (two state dicts in one?)"
        )
    duplicates = [name for name, count in Counter(original.values()).items() if count > 1]
    if duplicates:
        return f"has '{duplicates[0]}' twice, once from a wrapped model (two state dicts in one?)"
    first_parts = {name.split(".")[0] for name in original.values()}
    if len(first_parts) == 1 and len(original) > 1 and not first_parts & _KNOWN:
        return (
            f"all its {len(original)} names begin with '{first_parts.pop()}.', expected names such as "
            "'output_norm.weight' (hint: save the state_dict() of the encoder or cross-attention itself, not of a "
            "module around it)"
        )
    return None
