"""Combine a checkpoint, its run.json and the caller's flags into one typed `Wrapper`.

The tensors are authoritative. Checkpoint, run.json and flags must agree with the tensors and with each other. One error
lists all contradictions, each with both of its sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar, get_args

from metadeploy.checkpoint.files import RawCheckpoint, find_checkpoint, read_checkpoint
from metadeploy.checkpoint.layers import LayerSpec, is_bare_preset, parse_layers, preset_block_count
from metadeploy.checkpoint.run_json import RunJson, find_run_json, read_run_json
from metadeploy.errors import CheckpointError, faults_message
from metadeploy.sidecar.layout import Dims, infer, shape_faults
from metadeploy.sidecar.refusal import with_refusal_text
from metadeploy.sidecar.rules import (
    cognitive_token_faults,
    heads_faults,
    layer_order_faults,
    refusal_faults,
    size_faults,
)
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, EncoderType, InjectFrom, Kind, WrapperConfig

if TYPE_CHECKING:
    import torch

__all__ = ["Wrapper", "load_wrapper"]

T = TypeVar("T")

#: Maximum number of tensors that a message names; it gives the number of the others.
_MAX_NAMED: Final = 12
_LAYER_KEYS: Final = ("target_layers", "cross_attn_layers")
#: The keys that a checkpoint may have at its top level and in its config.
_SETTINGS: Final = (
    *("encoder_type", "hidden_dim", "num_layers", *_LAYER_KEYS, "model_name", "kind", "trigger", "inject_from"),
    *("refusal_text", "refusal_token_ids", "refusal_bias", "prompt_format", "answer_suffix", "chat_template_kwargs"),
    *("ca_bottleneck_dim", "ca_num_heads", "num_cognitive_tokens"),
)
#: The framework's default numbers of heads, for a checkpoint whose config has none.
_CA_HEADS: Final = 4
_ENC_HEADS: Final = 8


@dataclass(frozen=True)
class Wrapper:
    """A trained wrapper, checked and ready to be written or run.

    Attributes:
        config: its type, sizes, layers and settings, without ``checkpoint_sha256``.
        tensors: torch tensors by sidecar name, dtype as in the file (mapped from the file if its format allows).
        path: the checkpoint file.
        run_json: the manifest that was used; None if there was none.
        notes: notes for a summary: defaults that were used, and anything unusual.
    """

    config: WrapperConfig
    tensors: dict[str, torch.Tensor]
    path: Path
    run_json: RunJson | None
    notes: tuple[str, ...]


def load_wrapper(
    path: str | Path,
    *,
    run_json: str | Path | None = None,
    target_layers: LayerSpec | None = None,
    cross_attn_layers: LayerSpec | None = None,
    hidden_dim: int | None = None,
    num_layers: int | None = None,
    base_block_count: int | None = None,
    refusal_text: str | None = None,
) -> Wrapper:
    """Load a checkpoint and everything known about it.

    The layers come from the checkpoint, otherwise from run.json, otherwise from the arguments; sources that list them
    must agree. A preset (``late``, ``all``) needs the base's number of layers. That number comes from checkpoint,
    run.json or the arguments, otherwise from a list of the same layers, otherwise from ``base_block_count``.

    Args:
        path: a ``.pt`` or ``.safetensors`` file, or a run directory that has one.
        run_json: the manifest; by default the ``run.json`` beside the checkpoint, if there is one.
        target_layers: layers that the encoder reads, if neither checkpoint nor run.json lists them; a list, or text
            such as ``21-31`` or ``late:32``.
        cross_attn_layers: layers after which the wrapper injects; by default those that have tensors.
        hidden_dim: width of the base, as a check.
        num_layers: number of decoder blocks of the base, to resolve ``late`` and ``all``, and as a check.
        base_block_count: number of decoder blocks of the base that the wrapper will run on, used if no other source has
            that of the base that it was trained on; not a check.
        refusal_text: the sentence that the wrapper was trained to decline with, for files without it. It replaces the
            text of the files; their tokens and bias, which belong to that text, are not used.

    Returns:
        The wrapper.

    Raises:
        CheckpointError: the checkpoint cannot be used, or sources contradict each other (the message lists all faults).
        ValueError: the text cannot be used as a refusal, or wrappers of this kind have none.
        MissingDependencyError: torch or safetensors is not installed.
    """
    file = find_checkpoint(Path(path))
    manifest_path = find_run_json(file, run_json)
    manifest = None if manifest_path is None else read_run_json(manifest_path)
    flags = {
        "target_layers": target_layers,
        "cross_attn_layers": cross_attn_layers,
        "hidden_dim": hidden_dim,
        "num_layers": num_layers,
    }
    wrapper = _Assembly(read_checkpoint(file), manifest, flags, base_block_count).wrapper()
    return wrapper if refusal_text is None else _with_refusal_text(wrapper, refusal_text)


def _with_refusal_text(wrapper: Wrapper, text: str) -> Wrapper:
    previous = wrapper.config
    config = with_refusal_text(previous, text)
    dropped = [
        item
        for item, old, new in (
            (f"the refusal text '{previous.refusal_text}'", previous.refusal_text, config.refusal_text),
            ("its tokens", previous.refusal_token_ids, config.refusal_token_ids),
            (f"its bias {previous.refusal_bias:+g}", previous.refusal_bias, config.refusal_bias),
        )
        if old != new
    ]
    notes = (f"left out for another refusal text: {', '.join(dropped)}",) if len(dropped) > 1 else ()
    return replace(wrapper, config=config, notes=(*wrapper.notes, *notes))


@dataclass(frozen=True)
class _Claim:
    """The value that one source has for a key."""

    value: Any
    source: str


class _Assembly:
    """Determines each value of the config from its sources, and collects contradictions."""

    def __init__(
        self, raw: RawCheckpoint, manifest: RunJson | None, flags: Mapping[str, Any], base_block_count: int | None
    ) -> None:
        self.raw = raw
        self.manifest = manifest
        self.flags = flags
        self.base_block_count = base_block_count
        self.faults: list[str] = []
        self.notes: list[str] = list(raw.notes)

    def wrapper(self) -> Wrapper:
        config = self._config()
        if self.faults or config is None:
            raise CheckpointError(faults_message(f"checkpoint '{self.raw.path}'", self.faults))
        return Wrapper(config, self.raw.tensors, self.raw.path, self.manifest, tuple(self.notes))

    def _config(self) -> WrapperConfig | None:
        version = self.raw.extras.get("format_version")
        if version is not None and str(version).split(".")[0] != "1":
            self.faults.append(f"has format_version {_shown(version)}, expected 1.x (hint: update metadeploy)")
            return None
        shapes = {name: tuple(tensor.shape) for name, tensor in self.raw.tensors.items()}
        if not any(name.startswith("enc.") for name in shapes):
            self.faults.append("encoder_state is empty, expected the encoder's tensors")
            return None
        declared = self.raw.setting("encoder_type")
        dims = infer(shapes, encoder_type=declared if declared in get_args(EncoderType) else None)
        if dims.encoder_type is None:
            self.faults.append(
                f"encoder_type is {declared!r}, and the tensors do not determine it, expected {_one_of(EncoderType)}"
            )
            return None
        if too_large := size_faults(dims.sizes):
            self.faults += too_large
            return None  # loops over sizes beyond the bounds could take forever
        self._check_tensors(dims, shapes)
        self._check_both_places()
        self._settle("encoder_type", dims.encoder_type)
        self._check_config(dims)
        hidden_dim = self._settle("hidden_dim", dims.sizes.get("D")) or 0
        num_layers = self._num_layers(dims)
        target = self._target_layers(dims, num_layers)
        cross = self._cross_attn_layers(dims, num_layers)
        ca_heads = self._heads("ca_num_heads", _CA_HEADS, "cross-attention")
        encoder_name = None if dims.encoder_type == "selective" else f"{dims.encoder_type} encoder"
        enc_heads = self._heads("transformer_num_heads", _ENC_HEADS, encoder_name, alias="encoder_num_heads")
        self.faults += layer_order_faults(target, cross, num_layers)
        encoder_dim, bottleneck = dims.sizes.get("E", 0), dims.sizes.get("B", 0)
        self.faults += heads_faults(dims.encoder_type, encoder_dim, bottleneck, enc_heads, ca_heads)
        refusal_token_ids, refusal_bias = self._token_ids("refusal_token_ids"), self._number("refusal_bias") or 0.0
        self.faults += refusal_faults(refusal_token_ids, refusal_bias)
        return WrapperConfig(
            encoder_type=dims.encoder_type,
            hidden_dim=hidden_dim,
            encoder_dim=encoder_dim,
            bottleneck_dim=bottleneck,
            num_cognitive_tokens=dims.sizes.get("C", 0),
            ca_num_heads=ca_heads,
            enc_num_heads=enc_heads,
            target_layers=target,
            cross_attn_layers=cross,
            base_block_count=num_layers,
            inject_from=self._choice("inject_from", InjectFrom, "prompt"),
            refusal_text=self._text("refusal_text") or DEFAULT_REFUSAL_TEXT,
            refusal_token_ids=refusal_token_ids,
            refusal_bias=refusal_bias,
            prompt_format=self._text("prompt_format"),
            answer_suffix=self._text("answer_suffix"),
            chat_template_kwargs=self._template_kwargs(),
            base_model=self._text("model_name"),
            kind=self._kind(),
        )

    # -- values by source

    def _claims(self, key: str) -> list[_Claim]:
        """Return the values of a key in checkpoint, run.json and flags, in this order."""
        manifest_source = "run.json"
        if self.manifest is not None and self.manifest.path.parent != self.raw.path.parent:
            manifest_source = f"'{self.manifest.path}'"
        claims = [
            _Claim(self.raw.setting(key), "the checkpoint"),
            _Claim(getattr(self.manifest, key, None), manifest_source),
            _Claim(self.flags.get(key), f"--{key.replace('_', '-')}"),
        ]
        return [claim for claim in claims if claim.value is not None]

    def _settle(self, key: str, from_tensors: T | None, claims: list[_Claim] | None = None) -> T | None:
        """Return the first value of a key, and add a fault for each value that differs. The tensors come first."""
        all_claims = self._claims(key) if claims is None else claims
        if from_tensors is not None:
            all_claims = [_Claim(from_tensors, "the tensors"), *all_claims]
        for claim in all_claims[1:]:
            if claim.value != all_claims[0].value:
                first = all_claims[0]
                self.faults.append(
                    f"{key} is {_shown(claim.value)} in {claim.source}, but {_shown(first.value)} in {first.source}"
                )
        return all_claims[0].value if all_claims else None

    def _size(self, key: str) -> int | None:
        """Return a positive whole number from the checkpoint's config."""
        value = self.raw.setting(key)
        if value is None:
            return None
        if not _is_int(value) or value < 1:
            self.faults.append(f"{key} in the checkpoint is {_shown(value)}, expected a positive whole number")
            return None
        return value

    def _text(self, key: str) -> str | None:
        claims = [claim for claim in self._of_type(key, lambda value: isinstance(value, str), "text") if claim.value]
        return self._settle(key, None, claims)

    def _number(self, key: str) -> float | None:
        # an int only if a float can hold it exactly
        claims = self._of_type(key, lambda v: isinstance(v, float) or (_is_int(v) and abs(v) < 2**53), "a number")
        value = self._settle(key, None, claims)
        return None if value is None else float(value)

    def _token_ids(self, key: str) -> tuple[int, ...] | None:
        def fits(value: object) -> bool:
            return isinstance(value, (list, tuple)) and all(_is_int(item) for item in value)

        claims = self._of_type(key, fits, "a list of token ids")
        return self._settle(key, None, [_Claim(tuple(claim.value), claim.source) for claim in claims])

    def _of_type(self, key: str, fits: Callable[[object], bool], what: str) -> list[_Claim]:
        """Return the claims of a key with the right type, and add a fault for each of the others."""
        claims = self._claims(key)
        self.faults += [
            f"{key} is {_shown(claim.value)} in {claim.source}, expected {what}"
            for claim in claims
            if not fits(claim.value)
        ]
        return [claim for claim in claims if fits(claim.value)]

    def _choice(self, key: str, choices: Any, default: Any) -> Any:
        value = self._text(key)
        if value is not None and value not in get_args(choices):
            self.faults.append(f"{key} is {_shown(value)}, expected {_one_of(choices)}")
        return value or default

    def _template_kwargs(self) -> Mapping[str, Any]:
        value: Any = self._settle("chat_template_kwargs", None)
        if value is None or isinstance(value, Mapping):
            return value or {}
        self.faults.append(f"chat_template_kwargs is {_shown(value)}, expected an object")
        return {}

    # -- sizes

    def _check_tensors(self, dims: Dims, shapes: Mapping[str, tuple[int, ...]]) -> None:
        faults, extras = shape_faults(dims, shapes)
        self.faults += faults
        # a reader may ignore an unknown tensor, but here the wrapper would then compute something else
        self.faults += [
            f"tensor '{name}' is not part of a {dims.encoder_type} wrapper as known here"
            for name in extras[:_MAX_NAMED]
        ]
        if len(extras) > _MAX_NAMED:
            self.faults.append(
                f"{len(extras) - _MAX_NAMED} more tensors are not part of it, the last of them '{extras[-1]}'"
            )
        self.faults += cognitive_token_faults(dims.encoder_type, dims.sizes.get("C"), dims.n_target)
        for name, tensor in self.raw.tensors.items():
            # in float32, which is the type to write, and which can represent all smaller types
            if not bool(tensor.float().isfinite().all()):
                self.faults.append(f"tensor '{name}' has values that are not finite in float32 (diverged training?)")
        if not dims.cross_attn_layers:
            self.faults.append("ca_state is empty, expected at least one cross-attention layer")

    def _check_both_places(self) -> None:
        """Check that a key that is both at the top level and in the config has the same value in both."""
        for key in _SETTINGS:
            one, two = (_as_list(place.get(key)) for place in (self.raw.extras, self.raw.config))
            if one is not None and two is not None and one != two:
                self.faults.append(
                    f"{key} is {_shown(two)} in the checkpoint's config, but {_shown(one)} at its top level"
                )

    def _check_config(self, dims: Dims) -> None:
        """Compare the sizes in the training configuration with those of the tensors."""
        sizes = dims.sizes
        from_tensors: dict[str, int | None] = {"ca_bottleneck_dim": sizes.get("B")}
        if dims.encoder_type == "transformer":
            from_tensors |= {"transformer_encoder_dim": sizes.get("E"), "transformer_num_blocks": dims.n_blocks}
            # names of the same sizes in goal anchors
            from_tensors |= {"encoder_dim": sizes.get("E"), "encoder_num_blocks": dims.n_blocks}
            for key in ("transformer_ffn_expansion", "encoder_ffn_expansion"):
                expansion = self._size(key)
                if expansion is not None and expansion * sizes.get("E", 0) != sizes.get("F"):
                    self.faults.append(
                        f"{key} is {expansion} in the checkpoint, but the tensors have "
                        f"{sizes.get('F')} inner for {sizes.get('E')} outer units"
                    )
            self._check_switch("use_layer_pos_embeddings", dims.layer_pos_embed)
            self._check_switch("use_per_layer_projectors", not dims.shared_projector)
        else:
            from_tensors["encoder_bottleneck"] = sizes.get("E")
        if dims.encoder_type == "multi_token":
            from_tensors["num_cognitive_tokens"] = sizes.get("C")
        for key, size in from_tensors.items():
            value = self._size(key)
            if value is not None:
                self._settle(key, size, [_Claim(value, "the checkpoint")])
        pool = self.raw.setting("pool")
        if pool not in (None, "last"):
            self.faults.append(
                f"pool is {_shown(pool)} in the checkpoint, expected 'last': the encoder reads the last prompt token"
            )
        tokens = self.raw.setting("num_cognitive_tokens")
        if dims.encoder_type != "multi_token" and tokens is not None and tokens != sizes.get("C"):
            self.notes.append(
                f"num_cognitive_tokens {_shown(tokens)} in the checkpoint has no effect for a {dims.encoder_type} "
                f"encoder; the tensors have {sizes.get('C')}"
            )

    def _check_switch(self, key: str, is_on: bool) -> None:
        """Check that the tensors agree with a configuration key that turns a part of the encoder on or off."""
        value = self.raw.setting(key)
        if value is not None and value != is_on:
            verb = "have" if is_on else "do not have"
            self.faults.append(f"{key} is {_shown(value)} in the checkpoint, but the tensors {verb} them")

    def _heads(self, key: str, default: int, owner: str | None, *, alias: str | None = None) -> int:
        """Return the number of heads of a part; ``alias`` is another name for ``key``."""
        keys = [name for name in (key, alias) if name is not None and self.raw.setting(name) is not None]
        sizes = [_Claim(size, f"{name} in the checkpoint") for name in keys if (size := self._size(name)) is not None]
        if not keys and owner is not None:
            self.notes.append(
                f"{key} is not in the checkpoint: the framework's default of {default} heads for the {owner}"
            )
        return self._settle("the number of heads", None, sizes) or default

    def _kind(self) -> str:
        kind: str = self._choice("kind", Kind, "doubter")
        trigger = self.raw.setting("trigger")
        if kind == "goal_anchor" and trigger not in (None, "always"):
            self.faults.append(
                f"trigger is {_shown(trigger)} in the checkpoint, expected 'always': the runtime injects at every "
                "token, and has no other triggers"
            )
        return kind

    # -- layers

    def _num_layers(self, dims: Dims) -> int | None:
        presets = [
            _Claim(preset_block_count(claim.value), f"'{claim.value}' in {claim.source}")
            for key in _LAYER_KEYS
            for claim in self._claims(key)
            if isinstance(claim.value, str) and preset_block_count(claim.value) is not None
        ]
        claims = [*self._claims("num_layers"), *presets, *self._implied_block_counts(dims)]
        count: Any = self._settle("num_layers", None, claims)
        if count is not None and (not _is_int(count) or count < 1):
            self.faults.append(f"num_layers is {_shown(count)}, expected a positive whole number")
            return None
        return self.base_block_count if count is None else count

    def _implied_block_counts(self, dims: Dims) -> list[_Claim]:
        """Return the layer counts that follow from a preset without a number, such as ``late``, and a list of layers.

        Both end with the base's last layer.
        """
        implied = []
        lists = {key: [claim for claim in self._claims(key) if _is_list(claim.value)] for key in _LAYER_KEYS}
        if lists["target_layers"] and dims.cross_attn_layers:
            # the tensors name these layers; two presets could not confirm each other
            lists["cross_attn_layers"].append(_Claim(dims.cross_attn_layers, "the tensors"))
        for key, listed in lists.items():
            bare = [claim for claim in self._claims(key) if is_bare_preset(claim.value)]
            if bare and listed and all(map(_is_int, listed[0].value)):
                source = f"'{bare[0].value}' in {bare[0].source} beside the {key} of {listed[0].source}"
                implied.append(_Claim(max(listed[0].value) + 1, source))
        return implied

    def _layer_claims(self, key: str, num_layers: int | None) -> list[_Claim]:
        claims = []
        for claim in self._claims(key):
            try:
                if not isinstance(claim.value, (str, list, tuple)):
                    raise ValueError(f"is {_shown(claim.value)}, expected a list of layers")
                # a number of layers in the preset itself has been compared already
                expected_count = num_layers if preset_block_count(claim.value) is None else None
                claims.append(_Claim(parse_layers(claim.value, num_layers=expected_count), claim.source))
            except ValueError as fault:
                self.faults.append(f"{key} in {claim.source} {fault}")
        return claims

    def _target_layers(self, dims: Dims, num_layers: int | None) -> tuple[int, ...]:
        claims = self._layer_claims("target_layers", num_layers)
        if not claims:
            if not self._claims("target_layers"):
                self.faults.append(
                    f"nothing says which {dims.n_target} layers the encoder reads: neither the checkpoint nor a "
                    "run.json beside it names target_layers (hint: --run-json, or --target-layers 21-31)"
                )
            return ()
        layers: tuple[int, ...] = self._settle("target_layers", None, claims) or ()
        if list(layers) != sorted(layers):
            self.notes.append(
                f"target_layers are not in ascending order: the encoder reads them as listed, {list(layers)}; the "
                "framework would sort them"
            )
        if dims.n_target is not None and len(layers) != dims.n_target:
            self.faults.append(
                f"target_layers {list(layers)} in {claims[0].source} are {len(layers)}, "
                f"but the tensors are for {dims.n_target} layers"
            )
        return layers

    def _cross_attn_layers(self, dims: Dims, num_layers: int | None) -> tuple[int, ...]:
        claims = [
            _Claim(tuple(sorted(claim.value)), claim.source)
            for claim in self._layer_claims("cross_attn_layers", num_layers)
        ]
        return self._settle("cross_attn_layers", dims.cross_attn_layers, claims) or ()


def _as_list(value: object) -> object:
    """Return the value, with a tuple converted to a list."""
    return list(value) if isinstance(value, tuple) else value


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 100 else text[:97] + "..."


def _one_of(choices: Any) -> str:
    return "one of " + ", ".join(get_args(choices))
