"""``metadeploy edit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from metadeploy.sidecar.editing import EditReport

__all__ = ["register"]

#: The keys that can be set. They are repeated here so that --help need not import `metadeploy.sidecar.editing`; a test
#: compares the two.
_KEYS: Final = """\
[bold]Keys[/bold]

  name, version, license, description   [dim]general.*: for people to read[/dim]

  base_model             [dim]hub id or name of the base[/dim]

  base_block_count       [dim]layers of the base; bases with another number are refused[/dim]

  refusal_text           [dim]refusal with which it was trained, three words or more[/dim]

  refusal_token_ids      [dim]tokens of refusal_text as trained, such as 57,5248,441[/dim]

  refusal_bias           [dim]calibrated bias of the first of these tokens, -100 to 100[/dim]

  prompt_format, answer_suffix, chat_template_kwargs   [dim]how prompts were written in training[/dim]

A new refusal_text removes the tokens and the bias of the old one, unless you set them as well.

"""

_EPILOG: Final = (
    _KEYS
    + """\
[bold]Examples[/bold]

  metadeploy edit sidecar.gguf --set license=MIT --set name="Doubter for X" --dry-run

  metadeploy edit sidecar.gguf --set refusal_text="I don't have enough information." --base base.gguf

  metadeploy edit sidecar.gguf --set chat_template_kwargs='{"enable_thinking": false}' -o edited.gguf

  metadeploy edit sidecar.gguf --unset refusal_bias
"""
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="edit", epilog=_EPILOG, short_help="Change the metadata of a sidecar.")(_edit)


def _edit(
    sidecar: Annotated[Path, typer.Argument(metavar="SIDECAR", help="The sidecar.")],
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key; can be repeated.", show_default=False),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Remove a key; can be repeated.", show_default=False)
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="GGUF of the base: tokenizes a new refusal_text; the sidecar must fit.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a new file.", show_default="edit in place")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output file.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as JSON, and nothing else.")] = False,
) -> None:
    """Set or remove metadata of a sidecar: the refusal, names, license, prompt settings.

    The tensors stay the same to the byte. The command checks the result before it replaces the old file.
    """
    from metadeploy.cli._console import print_json
    from metadeploy.sidecar.editing import edit_sidecar

    if not values and not unset:
        raise typer.BadParameter("nothing to edit: give --set KEY=VALUE or --unset KEY", param_hint="'--set'")
    pairs = [_pair(text) for text in values or ()]
    new_values = dict(pairs)
    if len(new_values) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise typer.BadParameter(f"'{duplicate}' is given twice", param_hint="'--set'")
    try:
        report = edit_sidecar(
            sidecar, values=new_values, unset=unset or (), base=base, output=output, force=force, dry_run=dry_run
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--set' / '--unset'") from None
    if as_json:
        print_json(_as_json(report))
    else:
        _show(report)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise typer.BadParameter(f"'{text}' is not KEY=VALUE, such as license=MIT", param_hint="'--set'")
    return key.strip(), value


def _as_json(report: EditReport) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "path": str(report.path),
        "written": report.written,
        "sha256": report.sha256,
        "changes": [asdict(change) for change in report.changes],
    }


def _show(report: EditReport) -> None:
    from rich.markup import escape

    from metadeploy.cli._console import output

    console = output()
    for change in report.changes:
        console.print(f"[bold]{escape(change.key)}[/bold]", soft_wrap=True)
        console.print(f"  [dim]before:[/dim] {_value_text(change.before)}", soft_wrap=True)
        console.print(f"  [dim]after:[/dim]  {_value_text(change.after)}", soft_wrap=True)
    if not report.changes:
        console.print("nothing changes: the sidecar has these values already")
    if report.written:
        console.print(f"\nwritten: {escape(str(report.path))}\nsha256:  {report.sha256}", soft_wrap=True)
    elif report.changes:
        console.print(f"\nnot written: {escape(str(report.path))}", soft_wrap=True)


def _value_text(value: Any) -> str:
    from rich.markup import escape

    return "[dim]none[/dim]" if value is None else escape(str(value))
