"""Converts prompts for the core: texts, conversations and token ids. It refuses prompts that could be misread."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metadeploy._checks import INT32_MAX, check, shown, text
from metadeploy.errors import Error

__all__ = ["floats", "message_pairs", "template_text", "token_ids", "unicode_text"]

#: Sequences of numbers that are not token ids.
_BYTES = (bytes, bytearray, memoryview)


def is_sequence(value: object) -> bool:
    """Whether a value is a sequence other than text or bytes."""
    return isinstance(value, Sequence) and not isinstance(value, (str, *_BYTES))


def unicode_text(value: str) -> str:
    """Return the text unchanged.

    Raises:
        Error: it holds half a surrogate pair, which no tokenizer accepts.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Error(f"the prompt holds half a surrogate pair at character {error.start}, expected Unicode") from error
    return value


def message_pairs(messages: object) -> list[tuple[str, str]]:
    """Return the role and content of each message of a conversation.

    A content may be a list of parts as in OpenAI's API, all of type ``text``; newlines join them. Other keys are
    ignored if they are null or empty, as in answers of that API, and refused otherwise.

    Raises:
        TypeError: the value is not a list of messages.
        Error: a message is malformed or has an unsupported key or part, or the user's last message is empty.
    """
    if not is_sequence(messages):
        raise TypeError(f"messages is {shown(messages)}, expected a list of messages")
    pairs = [_pair(f"message {i} of the conversation", message) for i, message in enumerate(messages)]  # type: ignore[var-annotated,arg-type]
    user_contents = [content for role, content in pairs if role == "user"]
    if user_contents and not user_contents[-1].strip():
        raise Error("the last message of the user is empty, expected a text")
    return pairs


def _pair(subject: str, message: Any) -> tuple[str, str]:
    expected = f"{subject}: expected the strings 'role' and 'content'"
    if not isinstance(message, Mapping):
        raise Error(f"{expected}, got {shown(message)}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise Error(f"{expected}, got the role {shown(role)}")
    other_keys = [key for key, value in message.items() if key not in ("role", "content") and _is_set(value)]
    if other_keys:
        raise Error(f"{subject}: has {', '.join(map(repr, other_keys))}, expected 'role' and 'content' alone")
    if is_sequence(content) and content:
        content = "\n".join(_part(subject, part) for part in content)
    if not isinstance(content, str):
        raise Error(f"{expected}, got the content {shown(content)}")
    return unicode_text(role), unicode_text(content)


def _is_set(value: object) -> bool:
    return value is not None and not (isinstance(value, (str, Sequence, Mapping)) and len(value) == 0)


def _part(subject: str, part: object) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise Error(f"{subject}: has the part {shown(part)}, expected parts of type 'text'")
    text: str = part["text"]
    return text


def token_ids(values: object) -> list[int]:
    """Return the token ids as ints.

    Raises:
        Error: there are no ids, or one is not a whole number.
    """
    if isinstance(values, np.ndarray) and (values.ndim != 1 or not np.issubdtype(values.dtype, np.integer)):
        raise Error(f"the prompt is {shown(values)}, expected token ids: whole numbers [n_tokens]")
    if not isinstance(values, np.ndarray) and not is_sequence(values):
        raise TypeError(f"the prompt is of type {type(values).__name__}, expected token ids")
    items = list(values)  # type: ignore[call-overload]
    for i, token in enumerate(items):
        if isinstance(token, bool) or not isinstance(token, numbers.Integral):
            raise Error(f"token {i} of the prompt is {shown(token)}, expected a whole number")
    ids = [int(token) for token in items]
    for token in ids:
        if not -INT32_MAX <= token <= INT32_MAX:
            raise Error(f"prompt token {token} is not in the vocabulary")
    return ids


def template_text(value: str | os.PathLike[str]) -> str:
    """Return a chat template: the text or name itself, or the content of the file that a path object names.

    Raises:
        TypeError: the value is not a str or a path object.
        ValueError: it is empty.
        Error: the file cannot be read, or is not UTF-8.
    """
    if isinstance(value, os.PathLike):
        subject = f"chat_template '{os.fspath(value)}'"
        try:
            template = Path(value).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise Error(f"{subject}: cannot be read: {error.strerror}, expected a file of Jinja text") from error
        except UnicodeDecodeError as error:
            raise Error(f"{subject}: byte {error.start} is not UTF-8, expected a file of Jinja text") from error
    else:
        template = check("chat_template", value, text())
    if not template.strip():
        raise ValueError(
            "chat_template is empty, expected Jinja text, a name of llama.cpp's templates or a Path, or None"
        )
    return template


def floats(name: str, values: ArrayLike) -> NDArray[np.float32]:
    """Return an array of numbers in F32.

    Raises:
        TypeError: the values are not real numbers (for example texts, objects or complex numbers).
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} is {shown(array)}, expected an array of real numbers")
    with np.errstate(over="ignore"):  # a value too large for F32 becomes infinite, and the core refuses it
        return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
