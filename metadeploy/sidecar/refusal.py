"""Replaces the refusal text of a wrapper, together with its tokens and bias."""

from __future__ import annotations

from dataclasses import replace

from metadeploy.sidecar.spec import WrapperConfig

__all__ = ["check_refusal_text", "with_refusal_text"]


def check_refusal_text(text: str) -> str:
    """Refuse a text that answers cannot be compared with.

    Args:
        text: the sentence that a wrapper should decline with.

    Returns:
        The text.

    Raises:
        ValueError: its first sentence, with which answers are compared, has fewer than three words.
    """
    from metadeploy._core import refusal_text_fault  # only this function needs the compiled core

    fault = refusal_text_fault(text)
    if fault:
        raise ValueError(f"the refusal text '{text}' {fault}")
    return text


def with_refusal_text(config: WrapperConfig, text: str) -> WrapperConfig:
    """Set the refusal text of a wrapper whose files lack the one that it was trained on.

    Args:
        config: the wrapper's configuration.
        text: the refusal; see `check_refusal_text`.

    Returns:
        The configuration with that text. Tokens and bias belong to the old text, so a different text has none.

    Raises:
        ValueError: the text cannot be a refusal, or wrappers of this kind have none.
    """
    if not config.declines:
        raise ValueError(
            f"the refusal text '{text}': a wrapper of kind '{config.kind}' has no refusal, expected a doubter"
        )
    check_refusal_text(text)
    if text == config.refusal_text:
        return config
    return replace(config, refusal_text=text, refusal_token_ids=None, refusal_bias=0.0)
