"""Derive from the settings which wrapper is trained, the end-of-turn token, and fingerprints of a training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from metadeploy.checkpoint.layers import parse_layers
from metadeploy.checkpoint.run_dir import RunDir, training_fingerprint
from metadeploy.errors import RunDirError, faults_message
from metadeploy.reference.base import FrozenBase, eos_ids
from metadeploy.sidecar.refusal import check_refusal_text
from metadeploy.sidecar.spec import WrapperConfig
from metadeploy.training.settings import TrainSettings

__all__ = ["as_json", "cache_fingerprint", "end_of_turn", "fingerprint", "wrapper_config"]


def wrapper_config(run: RunDir, settings: TrainSettings) -> WrapperConfig:
    """Return the config of the wrapper to train, without the refusal's token ids.

    Raises:
        RunDirError: the base lacks a layer, the heads do not divide the width, or answers cannot be compared with the
            refusal text. The message lists all faults.
    """
    manifest = run.manifest
    layers: dict[str, tuple[int, ...]] = {}
    faults = []
    for key in ("target_layers", "cross_attn_layers"):
        try:
            layers[key] = parse_layers(getattr(settings, key), num_layers=manifest["num_layers"])
        except ValueError as error:
            faults.append(f"--{key.replace('_', '-')} {error}")
    heads = [("--ca-num-heads", settings.ca_num_heads)]
    if settings.encoder_type != "selective":
        heads.append(("--enc-num-heads", settings.enc_num_heads))
    faults += [
        f"{flag} is {count}, expected a divisor of --bottleneck-dim {settings.bottleneck_dim}"
        for flag, count in heads
        if count < 1 or settings.bottleneck_dim % count
    ]
    try:
        check_refusal_text(settings.refusal_text)
    except ValueError as error:
        faults.append(f"--refusal-text: {error}")
    if faults:
        raise RunDirError(faults_message("train", faults))
    n_tokens = settings.num_cognitive_tokens if settings.encoder_type == "multi_token" else len(layers["target_layers"])
    return WrapperConfig(
        encoder_type=settings.encoder_type,
        hidden_dim=manifest["hidden_dim"],
        encoder_dim=settings.bottleneck_dim,
        bottleneck_dim=settings.bottleneck_dim,
        num_cognitive_tokens=n_tokens,
        ca_num_heads=settings.ca_num_heads,
        enc_num_heads=settings.enc_num_heads,
        target_layers=layers["target_layers"],
        cross_attn_layers=tuple(sorted(layers["cross_attn_layers"])),
        inject_from=settings.inject_from,
        refusal_text=settings.refusal_text,
        prompt_format=manifest.get("prompt_format"),
        answer_suffix=manifest.get("answer_suffix"),
        chat_template_kwargs=manifest.get("chat_template_kwargs") or {},
        base_model=manifest["model_name"],
        base_block_count=manifest["num_layers"],
    )


def end_of_turn(base: FrozenBase, tokenizer: Any, config: WrapperConfig) -> int:
    """Return the token that the chat template puts after the assistant's message.

    Raises:
        RunDirError: the template puts no token there that ends generation, and the tokenizer has no end token.
    """
    stops = {*base.stop_ids, *eos_ids(tokenizer)}
    reply = "fine"
    variables = dict(config.chat_template_kwargs)
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": reply}], tokenize=False, **variables
    )
    ids_after: list[int] = tokenizer(text[text.rindex(reply) + len(reply) :], add_special_tokens=False)["input_ids"]
    for token in (*ids_after, tokenizer.eos_token_id):
        if token in stops:
            return int(token)
    raise RunDirError("base model: its chat template ends a turn without a token that ends generation")


def fingerprint(run: RunDir, settings: TrainSettings) -> str:
    """Return the `training_fingerprint` of a training with these settings."""
    return training_fingerprint(as_json(settings), run.manifest["collect"])


def cache_fingerprint(run: RunDir, settings: TrainSettings) -> str:
    """Return a fingerprint that two trainings share if they can share cached states.

    The seed and the settings of the wrapper alone do not change the cached states.
    """
    settings_json = as_json(settings)
    keys = ("cross_attn_layers", "inject_from", "refusal_text", "self_correction")
    content = {key: settings_json[key] for key in keys} | {"collect": run.manifest["collect"]}
    if settings.self_correction:
        content["seed"] = settings.fit.seed
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def as_json(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings as a JSON object."""
    return dict(json.loads(json.dumps(asdict(settings))))
