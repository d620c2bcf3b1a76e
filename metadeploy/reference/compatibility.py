"""Checks whether a wrapper fits a base."""

from __future__ import annotations

from collections.abc import Mapping

from metadeploy.errors import ModelMismatchError, faults_message
from metadeploy.reference.base import FrozenBase
from metadeploy.reference.doubter import Doubter


def check_fit(doubter: Doubter, base: FrozenBase, configured_layers: Mapping[str, tuple[int, ...] | None]) -> None:
    """Compare a wrapper with its base and with the layers in the pipeline's config.

    Args:
        doubter: the wrapper.
        base: the base.
        configured_layers: ``target_layers`` and ``cross_attn_layers`` of the config; None accepts the wrapper's layers.

    Raises:
        ModelMismatchError: they contradict each other; the message lists all contradictions.
    """
    config = doubter.config
    faults = base.range_faults("target_layers", config.target_layers)
    faults += base.range_faults("cross_attn_layers", config.cross_attn_layers)
    if not config.cross_attn_layers:
        faults.append("has no cross-attention layers, so it would change nothing")
    if config.hidden_dim != base.stack.hidden_dim:
        faults.append(
            f"was made for width {config.hidden_dim}, the base has {base.stack.hidden_dim} (wrong base model?)"
        )
    if config.base_block_count not in (None, base.num_layers):
        faults.append(
            f"was made for {config.base_block_count} decoder blocks, the base has {base.num_layers} (wrong base model?)"
        )
    unknown = [token for token in config.refusal_token_ids or () if token >= base.stack.vocab_size]
    if unknown:
        faults.append(
            f"has refusal token {unknown[0]}, the base has a vocabulary of {base.stack.vocab_size} (wrong base model?)"
        )
    for name, configured in configured_layers.items():
        actual: tuple[int, ...] = getattr(config, name)
        if configured is not None and (
            sorted(configured) != sorted(actual) if name == "cross_attn_layers" else configured != actual
        ):
            faults.append(f"has {name} {list(actual)}, MetaSpiderConfig says {list(configured)}")
    if faults:
        raise ModelMismatchError(faults_message(doubter.source, faults))
