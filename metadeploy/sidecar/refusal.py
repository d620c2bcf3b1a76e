"""Another refusal text in place of the one that a wrapper's files name, and what then becomes of its tokens."""

from __future__ import annotations

from dataclasses import replace

from metadeploy.sidecar.spec import WrapperConfig

__all__ = ["check_refusal_text", "with_refusal_text"]


def check_refusal_text(text: str) -> str:
    """Refuse a text that answers cannot be compared with.

    Args:
        text: what a wrapper is to decline with.

    Returns:
        The text.

    Raises:
        ValueError: it has fewer than three words in its opening sentence, by which an answer counts as declined.
    """
    from metadeploy._core import refusal_text_fault  # the compiled core: nothing else here needs it

    fault = refusal_text_fault(text)
    if fault:
        raise ValueError(f"the refusal text '{text}' {fault}")
    return text


def with_refusal_text(config: WrapperConfig, text: str) -> WrapperConfig:
    """Let a wrapper decline with this text, for one whose files do not name the one that it was trained on.

    Args:
        config: what the wrapper is.
        text: the refusal; see `check_refusal_text`.

    Returns:
        The same with that text. Its tokens and its bias belong to the text that it had, so another goes without.

    Raises:
        ValueError: the text cannot be a refusal, or the wrapper is of a kind that has none.
    """
    if not config.declines:
        raise ValueError(
            f"the refusal text '{text}': a wrapper of kind '{config.kind}' has no refusal, expected a doubter"
        )
    check_refusal_text(text)
    if text == config.refusal_text:
        return config
    return replace(config, refusal_text=text, refusal_token_ids=None, refusal_bias=0.0)
