"""Checks of the values that callers pass as options.

A `Rule` defines the values that an option takes. True and "0.5" are not numbers, NaN is outside every range, and NumPy
numbers count as numbers. Each message names the option.

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
_MAX_SHOWN: Final = 60


@dataclass(frozen=True)
class Rule:
    """The values that an option takes.

    Attributes:
        kind: the type in words, as in ``a number``.
        limits: the range in words, as in ``0 to 1``; empty if every value of the type is allowed.
        has_type: whether a value is of the type.
        in_range: whether a value of the type is allowed.
        maximum: the greatest value, if ``limits`` does not mention it because only a typing error exceeds it.
        convert: converts a value to the type that the rest of the code uses, such as a NumPy integer to int.
        nullable: whether None is allowed, and stays None.
    """

    kind: str
    has_type: Callable[[Any], bool]
    limits: str = ""
    in_range: Callable[[Any], bool] = lambda _: True
    convert: Callable[[Any], Any] = lambda value: value
    nullable: bool = False
    maximum: int | None = None

    def or_none(self) -> Rule:
        """Return this rule with None allowed as well."""
        return replace(self, nullable=True)

    def fault(self, name: str, value: object) -> TypeError | ValueError | None:
        """Return the error for a value, or None if the value is allowed."""
        if value is None and self.nullable:
            return None
        none = ", or None" if self.nullable else ""
        if not self.has_type(value):
            expected = f"{self.kind}, {self.limits}" if self.limits else self.kind
            return TypeError(f"{name} is {shown(value)}, expected {expected}{none}")
        converted = self.convert(value)
        if self.maximum is not None and converted > self.maximum:
            return ValueError(f"{name} is {shown(value)}, expected at most {self.maximum}{none}")
        if not self.in_range(converted):
            return ValueError(f"{name} is {shown(value)}, expected {self.limits or self.kind}{none}")
        return None


def shown(value: object) -> str:
    """Return a value as text for a message: shortened, or the type and shape of an array."""
    shape = getattr(value, "shape", None)
    if shape and hasattr(value, "dtype"):
        return f"an array of {value.dtype} with shape {list(shape)}"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def check(name: str, value: object, rule: Rule) -> Any:
    """Check the value of an option and return it converted.

    Raises:
        TypeError: it has the wrong type.
        ValueError: it is out of range.
    """
    fault = rule.fault(name, value)
    if fault is not None:
        raise fault
    return None if value is None else rule.convert(value)


def check_all(rules: Mapping[str, Rule], values: Mapping[str, object]) -> dict[str, Any]:
    """Check the values of several options by the rules of their names and return them converted.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range.
    """
    return {name: check(name, values[name], rule) for name, rule in rules.items()}


def faults(rules: Mapping[str, Rule], values: Mapping[str, object]) -> list[str]:
    """Return a phrase for each option whose value is not allowed."""
    errors = (rule.fault(name, values[name]) for name, rule in rules.items())
    return [str(fault) for fault in errors if fault is not None]


def flag_faults(rules: Mapping[str, Rule], settings: object) -> list[str]:
    """Return a phrase for each attribute that is not allowed, named by its flag: ``--batch-size`` for `batch_size`."""
    named = {f"--{name.replace('_', '-')}": (rule, getattr(settings, name)) for name, rule in rules.items()}
    return faults(
        {flag: rule for flag, (rule, _) in named.items()}, {flag: value for flag, (_, value) in named.items()}
    )


# --- rules -----------------------------------------------------------------------------------------------------------


def whole_number(minimum: int = 0, maximum: int = INT32_MAX) -> Rule:
    """An int of Python or NumPy. Not a bool, and not a float, even if it is whole."""
    return Rule(
        "a whole number",
        lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool),
        f"{minimum} or more" if maximum == INT32_MAX else f"{minimum} to {maximum}",
        lambda value: minimum <= value <= maximum,
        int,
        maximum=maximum,
    )


def any_whole_number() -> Rule:
    """An int of Python or NumPy of any size. Not a bool."""
    return replace(whole_number(), limits="", in_range=lambda _: True, maximum=None)


def any_number() -> Rule:
    """A float or int of Python or NumPy, including NaN, whose range is checked elsewhere. Not a bool."""
    return Rule("a number", _is_number, convert=_as_float)


def number(minimum: float = -math.inf, maximum: float = math.inf, *, above: float | None = None) -> Rule:
    """A finite float or int of Python or NumPy. Not a bool.

    Args:
        minimum: the smallest allowed number.
        maximum: the greatest allowed number.
        above: an exclusive lower bound, used instead of ``minimum``.
    """
    limits = (
        f"a number above {above:g}"
        if above is not None
        else "a finite number"
        if math.isinf(minimum)
        else f"{minimum:g} or more"
        if math.isinf(maximum)
        else f"{minimum:g} to {maximum:g}"
    )
    return Rule(
        "a number",
        _is_number,
        limits,
        lambda value: math.isfinite(value) and minimum <= value <= maximum and (above is None or value > above),
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
    """True or False, of Python or NumPy. Not 1, 0 or "yes"."""
    return Rule(
        "True or False",
        lambda value: isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"),
        convert=bool,
    )


def text() -> Rule:
    """A str of whole characters, which may be empty."""
    return Rule("a text", lambda value: isinstance(value, str), "a text of whole characters", _is_unicode, str)


def visible_text() -> Rule:
    """A str of whole characters, at least one of which is not white space."""
    return Rule(
        "a text",
        lambda value: isinstance(value, str),
        "a text that is not empty",
        lambda value: _is_unicode(value) and bool(value.strip()),
        str,
    )


def texts() -> Rule:
    """A text or a list of texts. No text in a list may be empty. Not bytes, which are a sequence of numbers."""

    def has_type(value: Any) -> bool:
        if isinstance(value, str):
            return True
        listed = isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview))
        return listed and all(isinstance(item, str) for item in value)

    return Rule(
        "a text or a list of texts",
        has_type,
        "texts of whole characters, none of them empty",
        lambda value: all(item and _is_unicode(item) for item in value),
        lambda value: [value] if isinstance(value, str) else list(value),
    )


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def names() -> Rule:
    """A list of texts, none of them empty. Not a single text."""
    return Rule(
        "a list of texts",
        lambda value: (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes, bytearray))
            and all(isinstance(item, str) for item in value)
        ),
        "texts that are not empty",
        lambda value: all(item.strip() for item in value),
    )


def layers() -> Rule:
    """A text such as ``late`` or ``1,5,7-9``, or layer numbers. `parse_layers` checks whether they are valid."""

    def has_type(value: object) -> bool:
        listed = isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray))
        return isinstance(value, str) or (listed and all(whole_number().has_type(item) for item in value))  # type: ignore[attr-defined]

    return Rule("layer numbers or a text such as '21-31' or 'late'", has_type)


def choice(*allowed: object) -> Rule:
    """One of the allowed values; 1 is not True."""

    def is_one(value: object) -> bool:
        return any(type(value) is type(option) and value == option for option in allowed)

    words = ", ".join(option if isinstance(option, str) else repr(option) for option in allowed)
    return Rule(
        f"one of {words}",
        lambda value: any(type(value) is type(option) for option in allowed),
        f"one of {words}",
        is_one,
    )


def path() -> Rule:
    """A path as a str or a path object. Not bytes."""
    return Rule(
        "a path",
        lambda value: isinstance(value, str) or (isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)),
        "the path of a file",
        lambda value: bool(value) and "\0" not in value,
        os.fspath,
    )


def function() -> Rule:
    """A callable."""
    return Rule("a function", callable)


def instance(kind: type) -> Rule:
    """An instance of a class."""
    return Rule(f"an object of class {kind.__name__}", lambda value: isinstance(value, kind))
