"""Examine a file as a sidecar: its wrapper, its faults, and anything unusual.

Published files have some irregularities, which are handled here: keys may contradict the tensors, which are
authoritative; any ``general.*`` key except the architecture may be missing; and files omit empty lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from metadeploy._json import JSONFault, parse
from metadeploy.errors import shown
from metadeploy.sidecar import keys
from metadeploy.sidecar.gguf_file import GGUFFile, Value, read_gguf
from metadeploy.sidecar.layout import Dims, infer, shape_faults
from metadeploy.sidecar.quants import SIDECAR_TYPES
from metadeploy.sidecar.rules import (
    MAX_INT,
    TRANSFORMER_KEYS,
    cognitive_token_faults,
    heads_faults,
    layer_order_faults,
    refusal_faults,
    size_faults,
    table_faults,
    transformer_key_faults,
    transformer_keys,
)
from metadeploy.sidecar.spec import (
    DEFAULT_REFUSAL_TEXT,
    FORMAT_VERSION,
    EncoderType,
    InjectFrom,
    JSONValue,
    WrapperConfig,
)
from metadeploy.sidecar.verdict import VERDICT_PREFIX, VerdictConfig, read_verdict_config

__all__ = ["Examination", "examine", "examine_file", "examine_head", "prefix_of"]

_PREFIXES: Final = {
    keys.ARCH_META_SPIDER: keys.PREFIX_META_SPIDER,
    keys.ARCH_DAIMON: keys.PREFIX_DAIMON,
}
#: The usual value of ``general.type``.
_GENERAL_TYPE: Final = "adapter"


@dataclass(frozen=True)
class Examination:
    """The result of examining a GGUF file as a sidecar.

    Attributes:
        file: the parsed file.
        config: the config of the wrapper; None if there are faults.
        faults: the reasons why the file cannot be used; empty for a valid sidecar.
        oddities: notes about anything unusual that does no harm.
        dims: sizes and parts of the wrapper that follow from the tensors.
        verdict: the verdict head without its weights; None if the file has none, or if there are faults.
    """

    file: GGUFFile
    config: WrapperConfig | None
    faults: tuple[str, ...]
    oddities: tuple[str, ...]
    dims: Dims
    verdict: VerdictConfig | None = None


def examine(path: str | Path) -> Examination:
    """Examine a file as a sidecar, also if it has faults.

    Args:
        path: any GGUF file.

    Returns:
        Its content, faults and oddities.

    Raises:
        SidecarError: the file is not a well-formed GGUF file.
    """
    return examine_file(read_gguf(path))


def examine_file(file: GGUFFile) -> Examination:
    """Examine a parsed file as a sidecar; see `examine`."""
    return _Examiner(file).run()


def examine_head(path: str | Path, *, size: int) -> Examination:
    """Examine the head of a sidecar that is being written: everything except the values of its tensors.

    Args:
        path: the unfinished file, which ends before the data of the tensors.
        size: size of the finished file in bytes.

    Returns:
        See `examine`.

    Raises:
        SidecarError: see `examine`.
    """
    return _Examiner(read_gguf(path, size=size), values=False).run()


def prefix_of(file: GGUFFile) -> str | None:
    """Return the key prefix of the file's architecture; None if the file is not a sidecar."""
    architecture = file.metadata.get("general.architecture", Value("str", "")).value
    return _PREFIXES.get(architecture) if isinstance(architecture, str) else None


class _Examiner:
    """Collects faults and oddities of one file; each method checks one aspect."""

    def __init__(self, file: GGUFFile, *, values: bool = True) -> None:
        self.file = file
        self.values = values  # whether the file has the values of the tensors
        self.faults: list[str] = []
        self.oddities: list[str] = []
        self.prefix = ""
        self.verdict: VerdictConfig | None = None

    def run(self) -> Examination:
        prefix = prefix_of(self.file)
        if prefix is None:
            return self._not_a_sidecar()
        self.prefix = prefix
        if not self._version_is_known():
            return self._result(None, Dims())
        self._look_at_general()
        shapes = {name: info.shape for name, info in self.file.tensors.items()}
        declared = self._encoder_type()
        dims = infer(shapes, encoder_type=declared)
        if too_large := size_faults(dims.sizes):
            self.faults += too_large
            return self._result(None, Dims(cross_attn_layers=dims.cross_attn_layers))  # without the bad sizes
        config = self._config(declared, dims)
        self._read_verdict(dims, shapes)
        self._check_tensors(dims, shapes)
        return self._result(config, dims)

    def _result(self, config: WrapperConfig | None, dims: Dims) -> Examination:
        verdict = None if self.faults else self.verdict
        config = None if self.faults else config
        return Examination(self.file, config, tuple(self.faults), tuple(self.oddities), dims, verdict)

    # -- metadata

    def _not_a_sidecar(self) -> Examination:
        value = self.file.metadata.get("general.architecture")
        if value is None:
            self.faults.append("key 'general.architecture' is missing, expected 'meta-spider' or 'daimon'")
        else:
            hint = " (a base model, not a sidecar?)" if self.file.tensors.get("token_embd.weight") else ""
            self.faults.append(f"has architecture {shown(repr(value.value))}, expected 'meta-spider' or 'daimon'{hint}")
        return self._result(None, Dims())

    def _version_is_known(self) -> bool:
        version = self._int(keys.FORMAT_VERSION)
        if version is None:
            return True
        if version > FORMAT_VERSION:
            self.faults.append(
                f"has format version {version}, this metadeploy reads up to {FORMAT_VERSION} (hint: update metadeploy)"
            )
        elif version < 1:
            self.faults.append(f"has format version {version}, expected 1 to {FORMAT_VERSION}")
        return not self.faults

    def _look_at_general(self) -> None:
        for key in ("general.name", "general.type"):
            if key not in self.file.metadata:
                self.oddities.append(f"key '{key}' is absent")
        kind = self.file.metadata.get("general.type")
        if kind is not None and kind.value != _GENERAL_TYPE:
            self.oddities.append(f"general.type is {shown(repr(kind.value))}, not '{_GENERAL_TYPE}'")
        gate = self._str(keys.GATE_ACTIVATION)
        if gate not in (None, "tanh"):
            self.faults.append(f"has gate activation '{shown(gate)}', expected 'tanh'")

    def _key(self, template: str) -> str:
        return template.format(prefix=self.prefix)

    def _typed(self, template: str, what: str, fits: Any) -> Any:
        """Return the value of a key; None if it is missing, or if its type is wrong, which is a fault."""
        key = self._key(template)
        value = self.file.metadata.get(key)
        if value is None:
            return None
        if not fits(value):
            self.faults.append(f"key '{key}' has type {value.type}, expected {what}")
            return None
        return value.value

    def _int(self, template: str) -> int | None:
        value: int | None = self._typed(template, "u32", lambda value: value.type in ("u32", "i32", "u64", "i64"))
        if value is not None and not 0 <= value <= MAX_INT:
            self.faults.append(f"key '{self._key(template)}' is {value}, expected 0 to {MAX_INT}")
            return None
        return value

    def _str(self, template: str) -> str | None:
        value: str | None = self._typed(template, "str", lambda value: value.type == "str")
        return value

    def _float(self, template: str) -> float | None:
        value: float | None = self._typed(template, "f32", lambda value: value.type == "f32")
        return value

    def _ints(self, template: str) -> tuple[int, ...] | None:
        types = ("[i32]", "[u32]", "[i64]", "[u64]")
        numbers: list[int] | None = self._typed(template, "[i32]", lambda value: value.type in types)
        return None if numbers is None else tuple(numbers)

    def _required_int(self, template: str) -> int:
        value = self._int(template)
        if value is None and self._key(template) not in self.file.metadata:
            self.faults.append(f"key '{self._key(template)}' is missing, expected a u32")
        return value or 0

    def _choice(self, template: str, choices: tuple[str, ...]) -> str | None:
        value = self._str(template)
        if value is not None and value not in choices:
            self.faults.append(f"key '{self._key(template)}' is '{shown(value)}', expected one of {', '.join(choices)}")
            return None
        return value

    def _encoder_type(self) -> EncoderType | None:
        value: Any = self._choice(keys.ENCODER_TYPE, get_args(EncoderType))
        encoder_type: EncoderType | None = value
        return encoder_type

    # -- keys compared with tensors

    def _agreed(self, template: str, from_tensors: int | None, what: str) -> int:
        """Return a size that follows from the tensors and that a key repeats; a different key is a fault."""
        declared = self._int(template)
        key = self._key(template)
        if from_tensors is None:
            if declared is None and key not in self.file.metadata:
                self.faults.append(f"key '{key}' is missing, and no tensor tells {what}")
            return declared or 0
        if declared is None:
            self.oddities.append(f"key '{key}' is absent; the tensors say {from_tensors}")
        elif declared != from_tensors:
            self.faults.append(f"key '{key}' is {declared}, but the tensors say {from_tensors}")
        return from_tensors

    def _config(self, declared: EncoderType | None, dims: Dims) -> WrapperConfig | None:
        sizes = dims.sizes
        encoder_type = self._settle_encoder_type(declared, dims)
        hidden_dim = self._agreed(keys.HIDDEN_DIM, sizes.get("D"), "the width of the base")
        bottleneck_dim = self._agreed(keys.BOTTLENECK_DIM, sizes.get("B"), "the cross-attention's bottleneck")
        num_tokens = self._cognitive_tokens(encoder_type, dims)
        target_layers, cross_attn_layers = self._layer_lists(dims)
        self.faults += cognitive_token_faults(encoder_type, sizes.get("C"), len(target_layers) or None)
        ca_heads = self._required_int(keys.CA_NUM_HEADS)
        headless = encoder_type in (None, "selective")
        enc_heads = self._int(keys.ENC_NUM_HEADS) or 0 if headless else self._required_int(keys.ENC_NUM_HEADS)
        blocks = self._int(keys.BASE_BLOCK_COUNT)
        self.faults += layer_order_faults(target_layers, cross_attn_layers, blocks)
        encoder_dim = sizes.get("E", 0)
        needed = (keys.CA_NUM_HEADS,) if encoder_type == "selective" else (keys.CA_NUM_HEADS, keys.ENC_NUM_HEADS)
        # a missing number of heads is already a fault; do not add another one
        if encoder_type is not None and all(self._key(key) in self.file.metadata for key in needed):
            self.faults += heads_faults(encoder_type, encoder_dim, bottleneck_dim, enc_heads, ca_heads)
        self._check_transformer_keys(dims)
        self.faults += table_faults(hidden_dim, num_tokens, ca_heads)
        settings = self._settings()
        if encoder_type is None:
            return None
        return WrapperConfig(
            encoder_type=encoder_type,
            hidden_dim=hidden_dim,
            encoder_dim=encoder_dim,
            bottleneck_dim=bottleneck_dim,
            num_cognitive_tokens=num_tokens,
            ca_num_heads=ca_heads,
            enc_num_heads=enc_heads,
            target_layers=target_layers,
            cross_attn_layers=cross_attn_layers,
            base_block_count=blocks,
            **settings,
        )

    def _check_transformer_keys(self, dims: Dims) -> None:
        declared = {template: self._int(template) for template in TRANSFORMER_KEYS}
        self.faults += [fault.format(prefix=self.prefix) for fault in transformer_key_faults(dims, declared)]
        self.oddities += [
            f"key '{self._key(template)}' is absent; the tensors say {size}, and the framework's reader needs it"
            for template, size in transformer_keys(dims).items()
            if size is not None and self._key(template) not in self.file.metadata
        ]

    def _settle_encoder_type(self, declared: EncoderType | None, dims: Dims) -> EncoderType | None:
        key = self._key(keys.ENCODER_TYPE)
        if declared is None and key not in self.file.metadata:
            if dims.encoder_type is None:
                self.faults.append(f"key '{key}' is missing, and no tensor tells the encoder")
            else:
                self.oddities.append(f"key '{key}' is absent; the tensors say {dims.encoder_type}")
        elif declared is not None and dims.encoder_type != declared:
            self.faults.append(
                f"key '{key}' is '{declared}', but the tensors are those of a {dims.encoder_type} encoder"
            )
        return dims.encoder_type

    def _cognitive_tokens(self, encoder_type: EncoderType | None, dims: Dims) -> int:
        from_tensors = dims.sizes.get("C")
        if from_tensors is None and encoder_type not in (None, "multi_token"):
            from_tensors = dims.n_target  # without cross-attention, too, the encoder has a token for each layer
        declared = self._int(keys.NUM_COGNITIVE_TOKENS)
        key = self._key(keys.NUM_COGNITIVE_TOKENS)
        if from_tensors is None:
            from_tensors = declared or 0
        elif declared is None:
            self.oddities.append(f"key '{key}' is absent; the tensors have {from_tensors}")
        elif declared != from_tensors:
            # published files have the training default here
            self.oddities.append(
                f"key '{key}' is {declared}, but the tensors have {from_tensors} cognitive tokens, which are used"
            )
        return from_tensors

    def _layer_lists(self, dims: Dims) -> tuple[tuple[int, ...], tuple[int, ...]]:
        target_key, cross_key = self._key(keys.TARGET_LAYERS), self._key(keys.CROSS_ATTN_LAYERS)
        target = self._ints(keys.TARGET_LAYERS)
        is_readable = target is not None or target_key not in self.file.metadata  # if not, its type is already a fault
        if is_readable and dims.n_target is not None and len(target or ()) != dims.n_target:
            state = "is absent" if target is None else f"names {len(target)} layers"
            self.faults.append(f"key '{target_key}' {state}, but the tensors are for {dims.n_target} target layers")
        elif is_readable and not target:
            self.faults.append(f"key '{target_key}' names no layers, expected at least one")
        cross = self._ints(keys.CROSS_ATTN_LAYERS)
        if cross is None:
            if dims.cross_attn_layers and cross_key not in self.file.metadata:
                self.oddities.append(f"key '{cross_key}' is absent; the tensors have {list(dims.cross_attn_layers)}")
        elif set(cross) != set(dims.cross_attn_layers):
            self.faults.append(
                f"key '{cross_key}' is {shown(list(cross))}, but there are tensors for layers "
                f"{list(dims.cross_attn_layers)}"
            )
        elif list(cross) != sorted(cross):
            self.oddities.append(f"key '{cross_key}' is not in ascending order: {shown(list(cross))}")
        if not dims.cross_attn_layers and not cross:
            self.oddities.append("there are no cross-attention layers: this wrapper injects nothing")
        ordered = cross if cross is not None and len(set(cross)) != len(cross) else dims.cross_attn_layers
        return target or (), ordered

    def _settings(self) -> dict[str, Any]:
        """Return the optional settings as arguments of `WrapperConfig`."""
        trigger = self._str(keys.TRIGGER)
        if trigger not in (None, "always"):
            self.faults.append(f"key '{self._key(keys.TRIGGER)}' is '{shown(trigger)}', expected 'always'")
        inject_from = self._choice(keys.INJECT_FROM, get_args(InjectFrom))
        token_ids, bias = self._ints(keys.REFUSAL_TOKEN_IDS), self._float(keys.REFUSAL_BIAS) or 0.0
        self.faults += refusal_faults(token_ids, bias)
        settings = {
            "inject_from": inject_from or "prompt",
            "refusal_text": self._str(keys.REFUSAL_TEXT) or DEFAULT_REFUSAL_TEXT,
            "refusal_token_ids": token_ids,
            "refusal_bias": bias,
            "prompt_format": self._str(keys.PROMPT_FORMAT),
            "answer_suffix": self._str(keys.ANSWER_SUFFIX),
            "chat_template_kwargs": self._chat_template_kwargs(),
            "base_model": _base_model(self.file.metadata),
            "checkpoint_sha256": self._str(keys.CHECKPOINT_SHA256),
        }
        kind = self._str(keys.KIND)
        if kind is not None and kind != "doubter":
            self.oddities.append(f"is of kind '{shown(kind)}', not a doubter")
        if settings["prompt_format"] not in (None, "auto"):
            self.oddities.append(
                f"key '{self._key(keys.PROMPT_FORMAT)}' is {shown(repr(settings['prompt_format']))}, which "
                "has no effect: the base's chat template is applied to prompts"
            )
        known = {value for value in vars(keys).values() if isinstance(value, str) and value.startswith("{prefix}.")}
        wrapper_keys = [key for key in self.file.metadata if key.startswith(f"{self.prefix}.")]
        unknown = [key for key in wrapper_keys if f"{{prefix}}{key.removeprefix(self.prefix)}" not in known]
        self.oddities += [f"key '{shown(key)}' is not part of this format; ignored" for key in unknown]
        return settings | {"kind": kind or "doubter"}

    def _chat_template_kwargs(self) -> Mapping[str, JSONValue]:
        text = self._str(keys.CHAT_TEMPLATE_KWARGS)
        if text is None:
            return {}
        key = self._key(keys.CHAT_TEMPLATE_KWARGS)
        try:
            value = parse(text)
        except JSONFault as fault:
            self.faults.append(f"key '{key}' is not JSON: {fault}")
            return {}
        if not isinstance(value, dict):
            self.faults.append(f"key '{key}' holds a JSON {type(value).__name__}, expected an object")
            return {}
        return value

    # -- tensors

    def _read_verdict(self, dims: Dims, shapes: Mapping[str, tuple[int, ...]]) -> None:
        hidden_dim = dims.sizes.get("D") or self._declared_int(keys.HIDDEN_DIM)
        n_blocks = self._declared_int(keys.BASE_BLOCK_COUNT) or None
        self.verdict, faults = read_verdict_config(self.file.metadata, self.prefix, shapes, hidden_dim, n_blocks)
        self.faults += faults

    def _declared_int(self, template: str) -> int:
        """Return the number of a key whose faults are already known; 0 if it is not usable."""
        value = self.file.metadata.get(self._key(template))
        return value.value if value is not None and isinstance(value.value, int) else 0

    def _check_tensors(self, dims: Dims, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if not any(name.startswith("enc.") for name in shapes):
            self.faults.append("has no encoder tensors (enc.*)")
            dims = Dims(sizes=dims.sizes, cross_attn_layers=dims.cross_attn_layers)
        faults, extras = shape_faults(dims, shapes)
        self.faults += faults
        if self.verdict is not None:
            extras = [name for name in extras if not name.startswith(VERDICT_PREFIX)]
        self.oddities += [f"tensor '{name}' is not part of this kind of wrapper; ignored" for name in extras]
        for name, info in self.file.tensors.items():
            if name in extras and info.nbytes is not None:
                continue
            if info.type not in SIDECAR_TYPES:
                self.faults.append(f"tensor '{name}' has type {info.type}, expected one of {', '.join(SIDECAR_TYPES)}")
                continue
            if not self.values:
                continue
            values = self.file.f32(name)
            if not np.isfinite(values).all():
                bad = int(values.size - np.isfinite(values).sum())
                self.faults.append(
                    f"tensor '{name}' has {bad} values that are not finite, expected none (damaged file?)"
                )


def _base_model(metadata: Mapping[str, Value]) -> str | None:
    """Return the hub id, otherwise the name, of the base in ``general.base_model.0.*``."""
    name = metadata.get("general.base_model.0.name", Value("", "")).value
    organization = metadata.get("general.base_model.0.organization", Value("", "")).value
    if not isinstance(name, str) or not name:
        return None
    return f"{organization}/{name}" if isinstance(organization, str) and organization else name
