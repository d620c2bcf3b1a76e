"""Flags of a command as a table; their defaults come from the settings that they fill."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, TypeVar

import typer

__all__ = ["Flag", "Panel", "fields_of", "takes"]

_F = TypeVar("_F", bound=Callable[..., Any])
_FROM_SETTINGS: Final = object()


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        help: what it does.
        kind: its type; by default that of its default.
        default: its default; by default that of the settings' attribute of its name.
        names: how it is written, if not as its name; a positional argument of typer has none of them.
        more: further arguments of `typer.Option`, such as ``min`` and ``show_default``.
    """

    help: str
    kind: Any = None
    default: Any = _FROM_SETTINGS
    names: tuple[str, ...] = ()
    more: Mapping[str, Any] | None = None

    def parameter(self, name: str, settings: object, panel: str | None) -> inspect.Parameter:
        """Return the parameter of a command that typer makes this flag of."""
        default = getattr(settings, name) if self.default is _FROM_SETTINGS else self.default
        option = typer.Option(*self.names, help=self.help, rich_help_panel=panel, **(self.more or {}))
        annotation = Annotated[self.kind or type(default), option]  # type: ignore[valid-type]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


class Panel:
    """Flags that the help shows together."""

    def __init__(self, title: str | None, settings: object = None, /, **flags: Flag) -> None:
        """Describe some flags.

        Args:
            title: heading in the help; None for the general one.
            settings: has the defaults.
            **flags: by the name of their value.
        """
        self.parameters = [flag.parameter(name, settings, title) for name, flag in flags.items()]


def takes(*panels: Panel) -> Callable[[_F], _F]:
    """Decorate a command that takes ``**flags``, so that typer sees each flag, before the command's own options."""

    def decorated(command: _F) -> _F:
        signature = inspect.signature(command, eval_str=True)
        own = [found for found in signature.parameters.values() if found.kind is not inspect.Parameter.VAR_KEYWORD]
        first = [found for found in own if found.kind is not inspect.Parameter.KEYWORD_ONLY]
        added = [parameter for panel in panels for parameter in panel.parameters]
        every = [*first, *added, *own[len(first) :]]
        command.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
        command.__annotations__ = {found.name: found.annotation for found in every}
        return command

    return decorated


def fields_of(settings: type[Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that are fields of some settings, a dataclass."""
    return {field.name: flags[field.name] for field in fields(settings) if field.name in flags}
