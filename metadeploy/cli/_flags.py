"""Flags of a command as a table. Their defaults come from the settings that they fill."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, TypeVar

import typer

__all__ = ["Flag", "Panel", "fields_of", "takes", "threads_flag"]

_F = TypeVar("_F", bound=Callable[..., Any])
_FROM_SETTINGS: Final = object()


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        help: its text in ``--help``.
        kind: its type; by default the type of its default value.
        default: its default value; by default the attribute of the same name in the panel's settings.
        names: its spellings, such as ``--bootstrap``; by default typer derives one from the flag's name.
        more: more arguments of `typer.Option`, such as ``min`` and ``show_default``.
    """

    help: str
    kind: Any = None
    default: Any = _FROM_SETTINGS
    names: tuple[str, ...] = ()
    more: Mapping[str, Any] | None = None

    def parameter(self, name: str, settings: object, panel: str | None) -> inspect.Parameter:
        """Return the parameter from which typer makes this flag."""
        default = getattr(settings, name) if self.default is _FROM_SETTINGS else self.default
        option = typer.Option(*self.names, help=self.help, rich_help_panel=panel, **(self.more or {}))
        annotation = Annotated[self.kind or type(default), option]  # type: ignore[valid-type]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def threads_flag(help: str) -> Flag:
    """Return the flag ``-t``, ``--threads``. None means the default of the library that computes."""
    return Flag(help, int | None, names=("-t", "--threads"), more={"min": 1, "max": 512})


class Panel:
    """Flags that ``--help`` shows together."""

    def __init__(self, title: str | None, settings: object = None, /, **flags: Flag) -> None:
        """Build the parameters of some flags.

        Args:
            title: heading in ``--help``; None for the general heading.
            settings: object whose attributes are the defaults.
            **flags: the flags, by the names of their values.
        """
        self.parameters = [flag.parameter(name, settings, title) for name, flag in flags.items()]


def takes(*panels: Panel) -> Callable[[_F], _F]:
    """Decorate a command that takes ``**flags``, so that typer sees every flag.

    ``--help`` shows them after the command's positional parameters and before its keyword-only ones.
    """

    def decorated(command: _F) -> _F:
        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        positional = [parameter for parameter in own if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
        added = [parameter for panel in panels for parameter in panel.parameters]
        parameters = [*positional, *added, *own[len(positional) :]]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorated


def fields_of(settings: type[Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that are fields of a dataclass of settings."""
    return {field.name: flags[field.name] for field in fields(settings) if field.name in flags}
