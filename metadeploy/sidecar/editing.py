"""Changes the metadata of a sidecar without changing its tensors.

Tensors, their records and all keys that do not change are copied byte for byte. The new file is examined in the same
way as by every reader before it replaces the old one atomically.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from metadeploy._checks import check_all, flag, instance, names, path, shown
from metadeploy._files import refuse_overwriting, sha256
from metadeploy._json import JSONFault, parse
from metadeploy.errors import SidecarError, faults_message
from metadeploy.sidecar import keys
from metadeploy.sidecar.examination import examine_file, prefix_of
from metadeploy.sidecar.gguf_file import GGUFFile, Value, read_gguf
from metadeploy.sidecar.refusal import check_refusal_text
from metadeploy.sidecar.rewriting import checked, rewrite
from metadeploy.sidecar.rules import MAX_INT
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT
from metadeploy.sidecar.writer import base_model_keys, check_target

__all__ = ["EDITABLE", "Change", "EditReport", "edit_sidecar"]

_BASE_MODEL: Final = "base_model"
_ARGUMENTS: Final = {
    "path": path(),
    "values": instance(Mapping).or_none(),
    "unset": names(),
    "base": path().or_none(),
    "output": path().or_none(),
    "force": flag(),
    "dry_run": flag(),
}


@dataclass(frozen=True)
class Change:
    """One key that an edit changes.

    Attributes:
        key: the key as in the file.
        before: its plain value before the edit; None if it was absent.
        after: its plain value after the edit; None if it is absent.
    """

    key: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class EditReport:
    """The result of an edit or of a dry run.

    Attributes:
        path: the output file.
        changes: every key that changes, including keys that change as a consequence of the requested edits.
        written: whether the file was written. False after a dry run, or if an edit in place changes nothing.
        sha256: SHA-256 of the file in hex; None if it was not written.
    """

    path: Path
    changes: tuple[Change, ...]
    written: bool
    sha256: str | None


# -- what can be edited


def _text(text: str) -> Value:
    return Value("str", text)


def _number(text: str) -> Value:
    try:
        if "_" in text:
            raise ValueError
        # rounded to F32, as readers will return it
        return Value("f32", struct.unpack("<f", struct.pack("<f", float(text)))[0])
    except (ValueError, OverflowError):
        raise ValueError(f"is {shown(text)}, expected a number such as -0.75") from None


def _parse_whole_number(text: str) -> int | None:
    """Parse a number in decimal digits. Return None if it is malformed or above `MAX_INT`."""
    digits = text.strip()
    number = int(digits[:11]) if digits.isascii() and digits.isdecimal() else MAX_INT + 1
    return number if number <= MAX_INT and len(digits) <= 11 else None


def _count(text: str) -> Value:
    if not (number := _parse_whole_number(text)):
        raise ValueError(f"is {shown(text)}, expected a whole number from 1 to {MAX_INT}")
    return Value("u32", number)


def _token_ids(text: str) -> Value:
    ids = [number for part in text.split(",") if (number := _parse_whole_number(part)) is not None]
    if len(ids) < len(text.split(",")):
        raise ValueError(f"is {shown(text)}, expected token ids between commas, such as 57,5248,441")
    return Value("[i32]", list(ids))


def _object(text: str) -> Value:
    try:
        value = parse(text)
    except JSONFault as fault:
        raise ValueError(f"is not JSON: {fault}") from None
    if not isinstance(value, dict):
        raise ValueError(
            f'holds a JSON {type(value).__name__}, expected an object such as {{"enable_thinking": false}}'
        )
    return Value("str", json.dumps(value))


@dataclass(frozen=True)
class _Editable:
    """A key that may be edited: its name in the file, the parser of its value, and a description."""

    key: str
    parse: Callable[[str], Value]
    description: str


#: The keys that can be set, by their short names. The full name of a key works as well.
EDITABLE: Final[Mapping[str, _Editable]] = {
    "name": _Editable("general.name", _text, "a name for people"),
    "version": _Editable("general.version", _text, "the version of the wrapper"),
    "license": _Editable("general.license", _text, "an SPDX identifier"),
    "description": _Editable("general.description", _text, "a sentence"),
    _BASE_MODEL: _Editable("general.base_model.0.name", _text, "the hub id or name of the base"),
    "base_block_count": _Editable(keys.BASE_BLOCK_COUNT, _count, "the number of layers of the base"),
    "refusal_text": _Editable(keys.REFUSAL_TEXT, _text, "the trained refusal"),
    "refusal_token_ids": _Editable(keys.REFUSAL_TOKEN_IDS, _token_ids, "the tokens of the trained refusal"),
    "refusal_bias": _Editable(keys.REFUSAL_BIAS, _number, "the calibrated bias of its first token"),
    "prompt_format": _Editable(keys.PROMPT_FORMAT, _text, "auto (the base's chat template)"),
    "answer_suffix": _Editable(keys.ANSWER_SUFFIX, _text, "the text after the last user message"),
    "chat_template_kwargs": _Editable(keys.CHAT_TEMPLATE_KWARGS, _object, "a JSON object for the chat template"),
}
_REFUSAL: Final = ("refusal_text", "refusal_token_ids", "refusal_bias")


def _editable(key_name: str, prefix: str) -> str:
    """Return the short name of a key that was typed in its short or its full form.

    Raises:
        ValueError: the key does not exist or cannot be edited.
    """
    for name, entry in EDITABLE.items():
        if key_name in (name, entry.key.format(prefix=prefix)):
            return name
    raise ValueError(f"'{key_name}' cannot be edited, expected one of {', '.join(EDITABLE)}")


# -- the edit


def edit_sidecar(
    path: str | Path,
    *,
    values: Mapping[str, str] | None = None,
    unset: Sequence[str] = (),
    base: str | Path | None = None,
    output: str | Path | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> EditReport:
    """Set or remove metadata of a sidecar.

    A new ``refusal_text`` removes the tokens and the bias of the old one, unless they are set as well. With ``base``,
    the tokens of the new text are written. The tensors stay the same to the byte.

    Args:
        path: the sidecar. It may have faults if the edit fixes them.
        values: value by key name, see `EDITABLE`. Every value is text, including numbers.
        unset: names of keys to remove.
        base: GGUF of the base model. The sidecar must fit it, and its vocabulary tokenizes a new refusal text.
        output: a new file, different from the sidecar; None edits in place.
        force: whether an existing ``output`` may be replaced.
        dry_run: whether to write nothing.

    Returns:
        A report of the changes.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: names or values cannot be set; the message lists all of them.
        Error: the output is the same file as the sidecar or the base.
        SidecarError: the file is not a sidecar, would not be valid after the edit (all faults), or cannot be written.
        ModelLoadError: the base is not a readable model.
        ModelMismatchError: the sidecar does not fit the base.
    """
    check_all(_ARGUMENTS, locals())
    source = Path(path)
    target = source if output is None else Path(output)
    if output is not None:
        refuse_overwriting(target, source, base, what="sidecar")
        check_target(Path(os.path.realpath(target)), f"sidecar '{target}'", force=force)
    file = read_gguf(source)
    prefix = prefix_of(file)
    if prefix is None:
        raise SidecarError(faults_message(f"sidecar '{path}'", examine_file(file).faults))
    requested = _requested(values or {}, unset, prefix)
    _update_refusal_keys(file, prefix, requested, None if base is None else Path(base))
    edited = replace(file, metadata=_edited_metadata(file.metadata, requested))
    changes = _changes(file.metadata, edited.metadata)
    config = checked(examine_file(edited), target)
    if base is not None:
        from metadeploy.sidecar.base_model import check_base

        check_base(base, config)
    written = not dry_run and bool(changes or output is not None)
    if written:
        rewrite(file, target, requested)
    return EditReport(path=target, changes=tuple(changes), written=written, sha256=sha256(target) if written else None)


def _requested(values: Mapping[str, str], unset: Sequence[str], prefix: str) -> dict[str, Value | None]:
    """Return the requested values by their key in the file; None removes a key."""
    requested: dict[str, Value | None] = {}
    faults: list[str] = []
    seen: set[str] = set()
    for key_name, text in (*values.items(), *((name, None) for name in unset)):
        try:
            if text is not None and not isinstance(text, str):
                raise TypeError(f"{key_name} is {shown(text)}, expected the value as text")
            name = _editable(key_name, prefix)
            if name in seen:
                raise ValueError(f"'{key_name}' is given twice")
            seen.add(name)
            requested |= _values(name, text, prefix)
        except ValueError as fault:
            faults.append(str(fault))
    if faults:
        raise ValueError(faults_message("edit", faults))
    return requested


def _values(name: str, text: str | None, prefix: str) -> dict[str, Value | None]:
    entry = EDITABLE[name]
    if text is None:
        removed = base_model_keys("a/b") if name == _BASE_MODEL else {entry.key: None}
        return {key.format(prefix=prefix): None for key in removed}
    if not text.strip():
        raise ValueError(f"{name} is empty, expected {entry.description} (hint: --unset {name} removes it)")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not Unicode text, expected {entry.description}") from None
    if "\0" in text:
        raise ValueError(f"{name} has a zero byte, expected {entry.description}")
    if name == "refusal_text":
        check_refusal_text(text)
    if name == _BASE_MODEL:
        if not base_model_keys(text):
            raise ValueError(f"{name} is '{text}', expected {entry.description}")
        return {key: None for key in base_model_keys("a/b")} | dict(base_model_keys(text))
    try:
        return {entry.key.format(prefix=prefix): entry.parse(text)}
    except ValueError as fault:
        raise ValueError(f"{name} {fault}") from None


def _update_refusal_keys(file: GGUFFile, prefix: str, requested: dict[str, Value | None], base: Path | None) -> None:
    """If the refusal text changes, replace or remove its tokens and its bias."""
    text_key, ids_key, bias_key = (EDITABLE[name].key.format(prefix=prefix) for name in _REFUSAL)
    kind = file.metadata.get(keys.KIND.format(prefix=prefix), Value("str", "doubter")).value
    if kind != "doubter" and any(requested.get(key) is not None for key in (text_key, ids_key, bias_key)):
        raise ValueError(f"edit: a wrapper of kind '{kind}' has no refusal, expected a doubter")

    def refusal_text(metadata: Mapping[str, Value | None]) -> object:
        value = metadata.get(text_key)
        return value.value if value is not None else DEFAULT_REFUSAL_TEXT

    text = refusal_text({**file.metadata, **requested})
    if text_key not in requested or text == refusal_text(file.metadata):
        return
    for key in (ids_key, bias_key):
        requested.setdefault(key, None)
    if base is not None and requested[ids_key] is None:
        requested[ids_key] = Value("[i32]", _tokens(base, str(text), file, prefix, requested))


def _tokens(base: Path, text: str, file: GGUFFile, prefix: str, requested: Mapping[str, Value | None]) -> list[int]:
    """Return the refusal's tokens at the start of an answer, by the base's vocabulary and the chat template."""
    from metadeploy import _core
    from metadeploy.sidecar.base_model import read_base

    read_base(base)  # raises a clear error for a file that is not a language model
    edited = _edited_metadata(file.metadata, requested)

    def setting(template: str) -> str:
        value = edited.get(template.format(prefix=prefix))
        return value.value if value is not None and isinstance(value.value, str) else ""

    kwargs = setting(keys.CHAT_TEMPLATE_KWARGS)
    _object(kwargs or "{}")
    return _core.refusal_tokens(str(base), text, setting(keys.ANSWER_SUFFIX), kwargs)


def _edited_metadata(metadata: Mapping[str, Value], requested: Mapping[str, Value | None]) -> dict[str, Value]:
    """Return the values after an edit, in the order of the file, with new keys last."""
    return {key: value for key, value in {**metadata, **requested}.items() if value is not None}


def _changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> list[Change]:
    def plain(value: Value | None) -> Any:
        return None if value is None else value.value

    names = {**before, **after}
    return [
        Change(key, plain(before.get(key)), plain(after.get(key))) for key in names if before.get(key) != after.get(key)
    ]
