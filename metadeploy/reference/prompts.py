"""From a question to the text that the base sees: the tokenizer's chat template, as transformers renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jinja2 import TemplateError

from metadeploy.errors import Error

__all__ = ["Message", "Prompt", "render_chat"]

#: A chat message: ``role`` and ``content``.
Message = Mapping[str, str]
#: What the user says, or messages, which go through the chat template; or token ids, as they are.
Prompt: TypeAlias = "str | Sequence[Message] | Sequence[int]"


def render_chat(
    tokenizer: Any,
    prompt: str | Sequence[Message],
    *,
    answer_suffix: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Wrap a question or a conversation into the tokenizer's chat template.

    Args:
        tokenizer: of transformers.
        prompt: what the user says, or messages.
        answer_suffix: appended to the last message of the user.
        template_kwargs: variables of the template, ``{"enable_thinking": False}`` for example.

    Returns:
        The text up to where the answer begins.

    Raises:
        Error: the tokenizer has no chat template, or it does not accept the messages.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    if not messages or any(not isinstance(m.get(key), str) for m in messages for key in ("role", "content")):
        raise Error("prompt: is no conversation, expected at least one message, each with role and content")
    if not getattr(tokenizer, "chat_template", None):
        raise Error("tokenizer: has no chat template, expected one (pass raw=True to use the prompt as it is)")
    asked = [message for message in messages if message["role"] == "user"]
    if asked and answer_suffix:
        asked[-1]["content"] += answer_suffix
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **(template_kwargs or {})
        )
    except TemplateError as error:
        raise Error(f"chat template: does not accept the messages: {error}") from error
    return text
