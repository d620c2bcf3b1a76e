"""From a question to the text that the base sees: the tokenizer's chat template, as transformers renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from metadeploy._prompts import message_pairs
from metadeploy.errors import Error

__all__ = ["Message", "Prompt", "render_chat"]

#: A chat message: ``role`` and ``content``.
Message = Mapping[str, str]
#: What the user says, or messages, which go through the chat template; or token ids, as they are.
Prompt: TypeAlias = "str | Sequence[Message] | Sequence[int]"

_ROLES: Final = ("system", "user", "assistant", "developer", "tool", "function")
#: A word that templates do not change; a text as short as this may be in a prompt by chance.
_PROBE: Final = "metadeployprobe"


def render_chat(
    tokenizer: Any,
    prompt: str | Sequence[Message],
    *,
    answer_suffix: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Wrap a question or a conversation into the tokenizer's chat template.

    The text of every message but the assistant's is in the prompt. Where a template has no place for it, contents are
    tried as lists of parts, as templates of models that see pictures expect them, and a system's message before the
    user's first; the compiled runtime does the same (csrc/text/chat_template.cpp).

    Args:
        tokenizer: of transformers.
        prompt: what the user says, or messages.
        answer_suffix: appended to the last message of the user.
        template_kwargs: variables of the template, ``{"enable_thinking": False}`` for example.

    Returns:
        The text up to where the answer begins.

    Raises:
        Error: the tokenizer has no chat template, or it does not accept the messages, or leaves one out.
    """
    try:
        pairs = message_pairs([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    except (TypeError, Error) as error:
        raise Error(f"prompt: is no conversation: {error}") from error
    if not pairs:
        raise Error("prompt: is no conversation, expected at least one message, each with role and content")
    source = _source(tokenizer)
    messages = [_Message(_role(role, i, source), content) for i, (role, content) in enumerate(pairs)]
    asked = [message for message in messages if message.role == "user"]
    if asked and answer_suffix:
        asked[-1].content += answer_suffix
    template = _Template(tokenizer, template_kwargs or {})
    text, fault = template.apply(messages, typed=False)
    if fault:
        text, still = template.apply(messages, typed=True)
        if still and len(messages) > 1 and (messages[0].role, messages[1].role) == ("system", "user"):
            first = _Message("user", f"{messages[0].content}\n{messages[1].content}")
            text, still = template.apply([first, *messages[2:]], typed=False)
        if still:
            raise Error(f"chat template: {fault}")
    return text


def _source(tokenizer: Any) -> str:
    found = getattr(tokenizer, "chat_template", None)
    if not found:
        raise Error("tokenizer: has no chat template, expected one (pass raw=True to use the prompt as it is)")
    return str(found)


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
        """The prompt, and what is wrong with it; the second is empty where nothing is."""
        try:
            text = self._render(messages, typed)
        except Exception as error:  # templates raise whatever Python does
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
        listed = [
            {"role": each.role, "content": [{"type": "text", "text": each.content}] if typed else each.content}
            for each in messages
        ]
        text: str = self.tokenizer.apply_chat_template(
            listed, tokenize=False, add_generation_prompt=True, **self.variables
        )
        return text

    def _arrives(self, bare_text: str, messages: Sequence[_Message], place: int, typed: bool) -> bool:
        """Templates strip contents, escape them, put them into lines: so white space does not count.

        Where a text is not found, or may be there by chance, a plain word in its place has to be.
        """
        bare = _bare(messages[place].content)
        if len(bare) > len(_PROBE) and bare in bare_text:
            return True
        probed = [*messages[:place], _Message(messages[place].role, _PROBE), *messages[place + 1 :]]
        try:
            return _PROBE in _bare(self._render(probed, typed)).lower()
        except Exception:  # it looks for something in the contents
            return bare in bare_text


def _bare(text: str) -> str:
    return "".join(text.split())
