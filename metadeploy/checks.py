"""Values that people give, checked before one can be taken for something else.

A `Rule` says what an option takes. True is no number and neither is "0.5", NaN is out of every range, and numbers of
NumPy are numbers. Each message names the option.

    temperature = check("temperature", value, number(0, 2))
    options = check_all({"n_ctx": whole_number(0), "verbose": flag()}, given)
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

__all__ = [
    "INT32_MAX",
    "Rule",
    "any_number",
    "any_whole_number",
    "check",
    "check_all",
    "choice",
    "faults",
    "flag",
    "flag_faults",
    "function",
    "instance",
    "layers",
    "names",
    "number",
    "path",
    "shown",
    "text",
    "texts",
    "visible_text",
    "whole_number",
]

INT32_MAX: Final = 2**31 - 1
_MOST_SHOWN: Final = 60


@dataclass(frozen=True)
class Rule:
    """What values an option takes.

    Attributes:
        kind: the type in words, as in ``a number``.
        limits: the range in words, as in ``0 to 1``; empty where every value of the type is allowed.
        has_type: whether a value is of the type.
        in_range: whether a value of the type is allowed.
        most: the greatest value, where only a typing error is above it and ``limits`` does not say it.
        convert: the value as the rest of the code has it, an int of Python for one of NumPy.
        nullable: whether None is allowed, and stays None.
    """

    kind: str
    has_type: Callable[[Any], bool]
    limits: str = ""
    in_range: Callable[[Any], bool] = lambda _: True
    convert: Callable[[Any], Any] = lambda value: value
    nullable: bool = False
    most: int | None = None

    def or_none(self) -> Rule:
        """The same, and None."""
        return replace(self, nullable=True)

    def fault(self, name: str, value: object) -> TypeError | ValueError | None:
        """What is wrong with a value, if anything is."""
        if value is None and self.nullable:
            return None
        none = ", or None" if self.nullable else ""
        if not self.has_type(value):
            expected = f"{self.kind}, {self.limits}" if self.limits else self.kind
            return TypeError(f"{name} is {shown(value)}, expected {expected}{none}")
        converted = self.convert(value)
        if self.most is not None and converted > self.most:
            return ValueError(f"{name} is {shown(value)}, expected at most {self.most}{none}")
        if not self.in_range(converted):
            return ValueError(f"{name} is {shown(value)}, expected {self.limits or self.kind}{none}")
        return None


def shown(value: object) -> str:
    """A value as a message shows it: shortened, and of an array its type and shape."""
    shape = getattr(value, "shape", None)
    if shape and hasattr(value, "dtype"):
        return f"an array of {value.dtype} with shape {list(shape)}"
    found = repr(value)
    return found if len(found) <= _MOST_SHOWN else f"{found[:_MOST_SHOWN]}…"


def check(name: str, value: object, rule: Rule) -> Any:
    """The value of an option.

    Raises:
        TypeError: it has the wrong type.
        ValueError: it is out of range.
    """
    fault = rule.fault(name, value)
    if fault is not None:
        raise fault
    return None if value is None else rule.convert(value)


def check_all(rules: Mapping[str, Rule], values: Mapping[str, object]) -> dict[str, Any]:
    """The values of several options, each with the rule of its name.

    Raises:
        TypeError: one has the wrong type.
        ValueError: one is out of range.
    """
    return {name: check(name, values[name], rule) for name, rule in rules.items()}


def faults(rules: Mapping[str, Rule], values: Mapping[str, object]) -> list[str]:
    """What is wrong with the values of several options: a phrase for each, and none where nothing is."""
    found = (rule.fault(name, values[name]) for name, rule in rules.items())
    return [str(fault) for fault in found if fault is not None]


def flag_faults(rules: Mapping[str, Rule], settings: object) -> list[str]:
    """The same for the attributes of an object, each called as its flag: ``batch_size`` is ``--batch-size``."""
    named = {f"--{name.replace('_', '-')}": (rule, getattr(settings, name)) for name, rule in rules.items()}
    return faults(
        {flag: rule for flag, (rule, _) in named.items()}, {flag: value for flag, (_, value) in named.items()}
    )


# --- rules -----------------------------------------------------------------------------------------------------------


def whole_number(least: int = 0, most: int = INT32_MAX) -> Rule:
    """An int of Python or NumPy; no bool, and no float even if it is whole."""
    return Rule(
        "a whole number",
        lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool),
        f"{least} or more" if most == INT32_MAX else f"{least} to {most}",
        lambda value: least <= value <= most,
        int,
        most=most,
    )


def any_whole_number() -> Rule:
    """An int of Python or NumPy of any size; no bool."""
    return replace(whole_number(), limits="", in_range=lambda _: True, most=None)


def any_number() -> Rule:
    """A float or int of Python or NumPy, NaN too, for a range that is checked elsewhere; no bool."""
    return Rule("a number", _is_number, convert=_as_float)


def number(least: float = -math.inf, most: float = math.inf, *, above: float | None = None) -> Rule:
    """A finite float or int of Python or NumPy; no bool.

    Args:
        least: the smallest one.
        most: the greatest one.
        above: what it has to be greater than, in place of ``least``.
    """
    limits = (
        f"a number above {above:g}"
        if above is not None
        else "a finite number"
        if math.isinf(least)
        else f"{least:g} or more"
        if math.isinf(most)
        else f"{least:g} to {most:g}"
    )
    return Rule(
        "a number",
        _is_number,
        limits,
        lambda value: math.isfinite(value) and least <= value <= most and (above is None or value > above),
        _as_float,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an int of hundreds of digits
        return math.inf if value > 0 else -math.inf


def flag() -> Rule:
    """True or False, of Python or NumPy; no 1, 0 or "yes"."""
    return Rule(
        "True or False",
        lambda value: isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"),
        convert=bool,
    )


def text() -> Rule:
    """A str of whole characters, which may be empty."""
    return Rule("a text", lambda value: isinstance(value, str), "a text of whole characters", _is_unicode, str)


def visible_text() -> Rule:
    """A str of whole characters, one of which is no white space."""
    return Rule(
        "a text",
        lambda value: isinstance(value, str),
        "a text that is not empty",
        lambda value: _is_unicode(value) and bool(value.strip()),
        str,
    )


def texts() -> Rule:
    """One text or several, as a list; of several, none may be empty. No bytes, which are a sequence of numbers."""

    def has_type(value: Any) -> bool:
        if isinstance(value, str):
            return True
        listed = isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview))
        return listed and all(isinstance(each, str) for each in value)

    return Rule(
        "a text or a list of texts",
        has_type,
        "texts of whole characters, none of them empty",
        lambda value: all(each and _is_unicode(each) for each in value),
        lambda value: [value] if isinstance(value, str) else list(value),
    )


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def names() -> Rule:
    """Several texts, none of them empty; one text is not several."""
    return Rule(
        "a list of texts",
        lambda value: (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes, bytearray))
            and all(isinstance(each, str) for each in value)
        ),
        "texts that are not empty",
        lambda value: all(each.strip() for each in value),
    )


def layers() -> Rule:
    """Text such as ``late`` or ``1,5,7-9``, or layer numbers; whether they make sense is for `parse_layers`."""

    def has_type(value: object) -> bool:
        listed = isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray))
        return isinstance(value, str) or (listed and all(whole_number().has_type(each) for each in value))  # type: ignore[attr-defined]

    return Rule("layer numbers or a text such as '21-31' or 'late'", has_type)


def choice(*allowed: object) -> Rule:
    """One of some values; 1 is not True."""

    def is_one(value: object) -> bool:
        return any(type(value) is type(each) and value == each for each in allowed)

    words = ", ".join(each if isinstance(each, str) else repr(each) for each in allowed)
    return Rule(
        f"one of {words}",
        lambda value: any(type(value) is type(each) for each in allowed),
        f"one of {words}",
        is_one,
    )


def path() -> Rule:
    """A path as str or as an object that stands for one; no bytes."""
    return Rule(
        "a path",
        lambda value: isinstance(value, str) or (isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)),
        "the path of a file",
        lambda value: bool(value) and "\0" not in value,
        os.fspath,
    )


def function() -> Rule:
    """Something that can be called."""
    return Rule("a function", callable)


def instance(kind: type) -> Rule:
    """An object of a class."""
    return Rule(f"an object of class {kind.__name__}", lambda value: isinstance(value, kind))
