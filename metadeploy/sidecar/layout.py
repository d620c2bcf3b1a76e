"""The tensors of a wrapper, in one table that export, reader and documentation share.

Shapes are in PyTorch order and in symbols. So the same table gives every shape from the dimensions
(`expected_tensors`), and the dimensions from the tensors (`infer`):

    D  hidden size of the base            E  width of the encoder        F  width of the transformer's feed-forward
    B  bottleneck of the cross-attention  C  cognitive tokens            N  target layers

The formulas are in docs/sidecar-format.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from metadeploy.sidecar.spec import EncoderType, WrapperConfig

__all__ = [
    "Dims",
    "Shape",
    "SymbolicShape",
    "dims_of",
    "expected_tensors",
    "infer",
    "is_matrix",
    "same_shape",
    "shape_faults",
    "templates",
]

Shape: TypeAlias = "tuple[int, ...]"
#: A shape whose dimensions are symbols, multiples of a symbol ("3E"), or "1".
SymbolicShape: TypeAlias = "tuple[str, ...]"

_PRENORM_PROJECTOR: Final[dict[str, SymbolicShape]] = {
    "0.weight": ("D",),
    "0.bias": ("D",),
    "1.weight": ("E", "D"),
    "1.bias": ("E",),
}
_PLAIN_PROJECTOR: Final[dict[str, SymbolicShape]] = {"weight": ("E", "D")}

_OUTPUT: Final[dict[str, SymbolicShape]] = {
    "output_proj.0.weight": ("E",),
    "output_proj.0.bias": ("E",),
    "output_proj.1.weight": ("D", "E"),
    "output_proj.3.weight": ("D", "D"),
    "output_norm.weight": ("D",),
    "output_norm.bias": ("D",),
}
_OUTPUT_BIASES: Final[dict[str, SymbolicShape]] = {"output_proj.1.bias": ("D",), "output_proj.3.bias": ("D",)}

_LAYER_GATE: Final[dict[str, SymbolicShape]] = {"layer_gates.{i}": ("1",)}

_QUERY_ATTENTION: Final[dict[str, SymbolicShape]] = {
    "queries": ("C", "E"),
    "cross_attn.in_proj_weight": ("3E", "E"),
    "cross_attn.in_proj_bias": ("3E",),
    "cross_attn.out_proj.weight": ("E", "E"),
    "cross_attn.out_proj.bias": ("E",),
}

_LAYER_POS_EMBED: Final[dict[str, SymbolicShape]] = {"layer_pos_embed": ("N", "E")}
_INPUT_NORM: Final[dict[str, SymbolicShape]] = {"input_norm.weight": ("E",), "input_norm.bias": ("E",)}
_BLOCK: Final[dict[str, SymbolicShape]] = {
    "blocks.{b}.norm_attn.weight": ("E",),
    "blocks.{b}.norm_attn.bias": ("E",),
    "blocks.{b}.q_proj.weight": ("E", "E"),
    "blocks.{b}.k_proj.weight": ("E", "E"),
    "blocks.{b}.v_proj.weight": ("E", "E"),
    "blocks.{b}.o_proj.weight": ("E", "E"),
    "blocks.{b}.norm_ffn.weight": ("E",),
    "blocks.{b}.norm_ffn.bias": ("E",),
    "blocks.{b}.ffn.0.weight": ("F", "E"),
    "blocks.{b}.ffn.2.weight": ("E", "F"),
}

_CROSS_ATTENTION: Final[dict[str, SymbolicShape]] = {
    "norm.weight": ("D",),
    "norm.bias": ("D",),
    "down_proj.weight": ("B", "D"),
    "q_proj.weight": ("B", "B"),
    "k_proj.weight": ("B", "D"),
    "v_proj.weight": ("B", "D"),
    "up_proj.weight": ("D", "B"),
    "gate": ("1",),
    "token_preference": ("C",),
}

# three digits at most, so that a name in a hostile file cannot cause a list of millions of expected tensors
_INDEX: Final = r"(0|[1-9][0-9]{0,2})"
_COUNTED: Final = re.compile(rf"(ca|enc\.layer_projectors|enc\.layer_gates|enc\.blocks)\.{_INDEX}(?=\.|$)")
_PLACEHOLDERS: Final = {
    "ca": "{layer}",
    "enc.layer_projectors": "{i}",
    "enc.layer_gates": "{i}",
    "enc.blocks": "{b}",
}
#: Maximum number of missing tensors that a message names; it gives the number of the others.
_MAX_NAMED: Final = 12


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Sizes and parts of a wrapper that follow from its tensors; None if they do not.

    Attributes:
        encoder_type: type of the encoder, from the names.
        sizes: sizes of the symbols D, E, B, C, F, N that occur; if tensors disagree, the majority's.
        n_projectors: number of per-layer projectors, one more than the highest index; None if they are shared.
        prenorm_projector: whether projectors are LayerNorm, Linear and GELU, and not one bias-free Linear.
        shared_projector: whether all target layers share one projector (transformer only).
        layer_pos_embed: whether the transformer adds a learned embedding to each target layer.
        n_blocks: number of transformer blocks.
        cross_attn_layers: layers that have cross-attention tensors, ascending.
    """

    encoder_type: EncoderType | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    n_projectors: int | None = None
    prenorm_projector: bool = True
    shared_projector: bool = False
    layer_pos_embed: bool = False
    n_blocks: int = 0
    cross_attn_layers: tuple[int, ...] = ()

    @property
    def n_target(self) -> int | None:
        """N, the number of target layers; None if it does not follow from the tensors."""
        if self.n_projectors is not None:
            return self.n_projectors
        if "N" in self.sizes:
            return self.sizes["N"]
        # with a shared projector and no embedding, N follows only from C = N
        return self.sizes.get("C") if self.encoder_type == "transformer" else None


def templates(
    encoder_type: EncoderType,
    *,
    prenorm_projector: bool = True,
    shared_projector: bool = False,
    layer_pos_embed: bool = False,
) -> dict[str, SymbolicShape]:
    """Return the names and symbolic shapes of one kind of wrapper.

    Args:
        encoder_type: type of the encoder.
        prenorm_projector: see `Dims`; always True for selective.
        shared_projector: see `Dims`; transformer only.
        layer_pos_embed: see `Dims`; transformer only.

    Returns:
        Symbolic shape by name. ``{i}`` is the index of a target layer, ``{b}`` that of a transformer block, and
        ``{layer}`` the number of a cross-attention layer.
    """
    stem = "shared_projector" if shared_projector else "layer_projectors.{i}"
    projector = _PRENORM_PROJECTOR if prenorm_projector else _PLAIN_PROJECTOR
    encoder = {f"{stem}.{name}": shape for name, shape in projector.items()}
    if encoder_type == "selective":
        encoder |= _LAYER_GATE | _OUTPUT | _OUTPUT_BIASES
    elif encoder_type == "multi_token":
        encoder |= _QUERY_ATTENTION | _OUTPUT | _OUTPUT_BIASES
    else:
        encoder |= (_LAYER_POS_EMBED if layer_pos_embed else {}) | _INPUT_NORM | _BLOCK | _OUTPUT
    table = {f"enc.{name}": shape for name, shape in encoder.items()}
    return table | {f"ca.{{layer}}.{name}": shape for name, shape in _CROSS_ATTENTION.items()}


def infer(shapes: Mapping[str, Shape], *, encoder_type: EncoderType | None = None) -> Dims:
    """Infer a wrapper's dimensions from its tensors.

    Any tensor may be missing. If tensors disagree, the majority wins, so that `shape_faults` names the wrong one.

    Args:
        shapes: shapes by sidecar name, in PyTorch order.
        encoder_type: declared type of the encoder, used if the names do not determine it.

    Returns:
        The dimensions.
    """
    encoder_type = _encoder_type(shapes) or encoder_type
    counts: dict[str, set[int]] = {}
    for name in shapes:
        if match := _COUNTED.match(name):
            counts.setdefault(match[1], set()).add(int(match[2]))
    projectors = counts.get("enc.layer_projectors", set()) | counts.get("enc.layer_gates", set())
    is_shared = any(name.startswith("enc.shared_projector.") for name in shapes)
    plain_weight = re.compile(rf"enc\.(layer_projectors\.{_INDEX}|shared_projector)\.weight")
    is_plain = any(plain_weight.fullmatch(name) for name in shapes)
    # these two types cannot share a projector: if there is none, all are missing
    never_shared = encoder_type in ("selective", "multi_token") and any(name.startswith("enc.") for name in shapes)
    dims = Dims(
        encoder_type=encoder_type,
        n_projectors=max(projectors, default=-1) + 1 if projectors or never_shared else None,
        prenorm_projector=not is_plain or encoder_type == "selective",
        shared_projector=is_shared and not projectors and encoder_type == "transformer",
        layer_pos_embed="enc.layer_pos_embed" in shapes,
        n_blocks=max(counts.get("enc.blocks", ()), default=-1) + 1,
        cross_attn_layers=tuple(sorted(counts.get("ca", ()))),
    )
    return replace(dims, sizes=_sizes(_table(dims), shapes))


def dims_of(
    config: WrapperConfig,
    *,
    prenorm_projector: bool = True,
    shared_projector: bool = False,
    layer_pos_embed: bool = False,
    n_blocks: int = 0,
    ffn_dim: int = 0,
) -> Dims:
    """Return the dimensions of a wrapper from its config.

    Args:
        config: the wrapper's config.
        prenorm_projector: see `Dims`.
        shared_projector: see `Dims`.
        layer_pos_embed: see `Dims`.
        n_blocks: transformer only.
        ffn_dim: F, transformer only.

    Returns:
        Complete dimensions, for `expected_tensors`.
    """
    n_target = len(config.target_layers)
    sizes = {
        "D": config.hidden_dim,
        "E": config.encoder_dim,
        "B": config.bottleneck_dim,
        "C": config.num_cognitive_tokens,
        "F": ffn_dim,
        "N": n_target,
    }
    return Dims(
        encoder_type=config.encoder_type,
        sizes=sizes,
        n_projectors=None if shared_projector else n_target,
        prenorm_projector=prenorm_projector,
        shared_projector=shared_projector,
        layer_pos_embed=layer_pos_embed,
        n_blocks=n_blocks,
        cross_attn_layers=config.cross_attn_layers,
    )


def expected_tensors(dims: Dims) -> dict[str, Shape]:
    """Return all tensors of a wrapper with these dimensions.

    Args:
        dims: see `infer` and `dims_of`.

    Returns:
        Shape by sidecar name: the encoder first, then the cross-attention layers in order. An unknown size is 0.
    """
    counters: dict[str, Iterable[int]] = {
        "{i}": range(dims.n_target or 0),
        "{b}": range(dims.n_blocks),
        "{layer}": dims.cross_attn_layers,
    }
    expected: dict[str, Shape] = {}
    table = _table(dims)
    for placeholder in ("{i}", None, "{b}", "{layer}"):
        for number in counters[placeholder] if placeholder else (0,):
            for name, symbolic in table.items():
                if (placeholder in name) if placeholder else ("{" not in name):
                    numbered_name = name.replace(placeholder, str(number)) if placeholder else name
                    expected[numbered_name] = tuple(_size(dim, dims.sizes) for dim in symbolic)
    return expected


def shape_faults(dims: Dims, shapes: Mapping[str, Shape]) -> tuple[list[str], list[str]]:
    """Compare tensors with those of a wrapper with these dimensions.

    Args:
        dims: see `expected_tensors`.
        shapes: shapes of the present tensors by sidecar name.

    Returns:
        All faults (missing tensors, wrong shapes), and the names of tensors that such a wrapper does not have.
    """
    expected = expected_tensors(dims)
    missing = [name for name in expected if name not in shapes]
    faults = [f"tensor '{name}' is missing, expected shape {_text(expected[name])}" for name in missing[:_MAX_NAMED]]
    if len(missing) > _MAX_NAMED:
        faults.append(f"{len(missing) - _MAX_NAMED} more tensors are missing, the last of them '{missing[-1]}'")
    faults += [
        f"tensor '{name}' has shape {list(shapes[name])}, expected {_text(shape)}"
        for name, shape in expected.items()
        if name in shapes and not same_shape(shapes[name], shape)
    ]
    return faults, [name for name in shapes if name not in expected]


def same_shape(a: Shape, b: Shape) -> bool:
    """Return whether two shapes are equal without outer dimensions of 1, which GGUF tools omit when they write."""
    rank = max(len(a), len(b))
    return _with_rank(a, rank) == _with_rank(b, rank)


def is_matrix(name: str, shape: Shape) -> bool:
    """Return whether a tensor may have a smaller type: only weight matrices, not queries or position embeddings."""
    return len(shape) == 2 and name.endswith("weight")


#: Prefixes of names that only one type of encoder has.
_ENCODER_PREFIXES: Final[tuple[tuple[str, EncoderType], ...]] = (
    ("enc.layer_gates.", "selective"),
    ("enc.queries", "multi_token"),
    ("enc.cross_attn.", "multi_token"),
    ("enc.blocks.", "transformer"),
    ("enc.input_norm.", "transformer"),
    ("enc.shared_projector.", "transformer"),
    ("enc.layer_pos_embed", "transformer"),
)


def _encoder_type(names: Iterable[str]) -> EncoderType | None:
    names = tuple(names)
    for start, encoder_type in _ENCODER_PREFIXES:  # in this order, so that the file's order of tensors does not matter
        if any(name.startswith(start) for name in names):
            return encoder_type
    return None


def _table(dims: Dims) -> dict[str, SymbolicShape]:
    """Return the templates for these dimensions; only those of the cross-attention if the encoder is unknown."""
    if dims.encoder_type is None:
        return {f"ca.{{layer}}.{name}": shape for name, shape in _CROSS_ATTENTION.items()}
    return templates(
        dims.encoder_type,
        prenorm_projector=dims.prenorm_projector,
        shared_projector=dims.shared_projector,
        layer_pos_embed=dims.layer_pos_embed,
    )


def _sizes(table: Mapping[str, SymbolicShape], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return the size of each symbol by majority of the tensors."""
    votes: dict[str, Counter[int]] = {}
    for name, shape in shapes.items():
        symbolic = table.get(_COUNTED.sub(lambda match: f"{match[1]}.{_PLACEHOLDERS[match[1]]}", name, count=1), ())
        full = _with_rank(shape, len(symbolic))
        if len(symbolic) == len(full):
            for dim, size in zip(symbolic, full, strict=True):
                if dim.isalpha():
                    votes.setdefault(dim, Counter())[size] += 1
    return {symbol: counter.most_common(1)[0][0] for symbol, counter in votes.items()}


def _with_rank(shape: Shape, rank: int) -> Shape:
    """Return the shape with outer dimensions of 1 added or removed to get this rank, if that is possible."""
    while len(shape) > rank and shape[0] == 1:
        shape = shape[1:]
    return (1,) * (rank - len(shape)) + shape


def _size(dim: str, sizes: Mapping[str, int]) -> int:
    """Return the size of a symbolic dimension; 0 if it is unknown."""
    if dim.isdigit():
        return int(dim)
    factor, symbol = int(dim[:-1] or 1), dim[-1]
    return factor * sizes.get(symbol, 0)


def _text(shape: Shape) -> str:
    return "[" + ", ".join(str(size or "?") for size in shape) + "]"
