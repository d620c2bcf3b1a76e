"""Render questions and conversations with the tokenizer's chat template, as transformers does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from metadeploy._prompts import message_pairs
from metadeploy.errors import Error

__all__ = ["Message", "Prompt", "render_chat"]

#: A chat message: ``role`` and ``content``.
Message = Mapping[str, str]
#: A question or messages, to which the chat template is applied; or token ids, which are used unchanged.
Prompt: TypeAlias = "str | Sequence[Message] | Sequence[int]"

_ROLES: Final = ("system", "user", "assistant", "developer", "tool", "function")
#: A word that templates do not change. A text that is not longer than this may be in a prompt by chance.
_PROBE: Final = "metadeployprobe"


def render_chat(
    tokenizer: Any,
    prompt: str | Sequence[Message],
    *,
    answer_suffix: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Apply the tokenizer's chat template to a question or a conversation.

    The prompt must contain the text of every message, except the assistant's. If it does not, this tries contents as
    lists of parts, which templates of vision models expect, and then a system message at the beginning of the first
    user message. The compiled runtime does the same (csrc/text/chat_template.cpp).

    Args:
        tokenizer: a tokenizer of transformers.
        prompt: a question, or messages.
        answer_suffix: text that is appended to the last message of the user.
        template_kwargs: variables of the template, for example ``{"enable_thinking": False}``.

    Returns:
        The text of the prompt, up to the beginning of the answer.

    Raises:
        Error: the tokenizer has no chat template, or the template refuses the messages or leaves one out.
    """
    try:
        pairs = message_pairs([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    except (TypeError, Error) as error:
        raise Error(f"prompt: is not a conversation: {error}") from error
    if not pairs:
        raise Error("prompt: is not a conversation, expected at least one message, each with role and content")
    source = _source(tokenizer)
    messages = [_Message(_role(role, i, source), content) for i, (role, content) in enumerate(pairs)]
    user_messages = [message for message in messages if message.role == "user"]
    if user_messages and answer_suffix:
        user_messages[-1].content += answer_suffix
    template = _Template(tokenizer, template_kwargs or {})
    text, fault = template.apply(messages, typed=False)
    if fault:
        text, remaining_fault = template.apply(messages, typed=True)
        if remaining_fault and len(messages) > 1 and (messages[0].role, messages[1].role) == ("system", "user"):
            first = _Message("user", f"{messages[0].content}\n{messages[1].content}")
            text, remaining_fault = template.apply([first, *messages[2:]], typed=False)
        if remaining_fault:
            raise Error(f"chat template: {fault}")
    return text


def _source(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise Error("tokenizer: has no chat template, expected one (pass raw=True to use the prompt without one)")
    return str(template)


def _role(role: str, place: int, source: str) -> str:
    if role not in _ROLES and f"'{role}'" not in source and f'"{role}"' not in source:
        raise Error(
            f"message {place} of the conversation has the role '{role}', which the chat template does not know, "
            "expected system, user or assistant"
        )
    return "system" if role == "developer" and "developer" not in source else role


@dataclass
class _Message:
    role: str
    content: str


@dataclass(frozen=True)
class _Template:
    tokenizer: Any
    variables: Mapping[str, Any]

    def apply(self, messages: Sequence[_Message], *, typed: bool) -> tuple[str, str]:
        """Return the prompt and its fault, which is empty if there is none."""
        try:
            text = self._render(messages, typed)
        except Exception as error:  # templates can raise any exception
            return "", f"does not accept the messages: {error}"
        bare = _bare(text)
        for place, message in enumerate(messages):
            if message.role != "assistant" and not self._arrives(bare, messages, place, typed):
                return "", (
                    f"leaves out message {place} (role {message.role}), {message.content[:60]!r}: the prompt is "
                    f"{text[:60]!r}, expected that text in it (is it the template of this model?)"
                )
        return text, ""

    def _render(self, messages: Sequence[_Message], typed: bool) -> str:
        rendered = [
            {"role": message.role, "content": [{"type": "text", "text": message.content}] if typed else message.content}
            for message in messages
        ]
        text: str = self.tokenizer.apply_chat_template(
            rendered, tokenize=False, add_generation_prompt=True, **self.variables
        )
        return text

    def _arrives(self, bare_text: str, messages: Sequence[_Message], place: int, typed: bool) -> bool:
        """Return whether the prompt contains the text of a message.

        White space does not count, because templates strip contents and put them into lines. If the text is not found,
        for example because the template escapes it, or may be in the prompt by chance, the template is tried with a
        plain word instead of the text.
        """
        bare = _bare(messages[place].content)
        if len(bare) > len(_PROBE) and bare in bare_text:
            return True
        probed = [*messages[:place], _Message(messages[place].role, _PROBE), *messages[place + 1 :]]
        try:
            return _PROBE in _bare(self._render(probed, typed)).lower()
        except Exception:  # the template needs something in the contents
            return bare in bare_text


def _bare(text: str) -> str:
    return "".join(text.split())
