"""``metadeploy inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metadeploy.errors import Error, SidecarError

if TYPE_CHECKING:
    from rich.console import Console

    from metadeploy.sidecar.base_model import BaseModel
    from metadeploy.sidecar.examination import Examination
    from metadeploy.sidecar.gguf_file import GGUFFile
    from metadeploy.sidecar.verdict import VerdictConfig

__all__ = ["register"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy inspect doubter_sidecar.gguf               [dim]# contents and warnings[/dim]

  metadeploy inspect doubter_sidecar.gguf --json | jq .gates

  metadeploy inspect base.gguf                          [dim]# can it take a sidecar?[/dim]
"""
_MAX_VALUE_LENGTH = 100


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="inspect", epilog=_EPILOG, short_help="Show the contents of a sidecar, its faults and oddities.")(
        _inspect
    )


def _inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A sidecar, or a base model's GGUF.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, and nothing else.")] = False,
) -> None:
    """Show metadata, layers, gate strengths and tensors of a sidecar.

    Works on sidecars of other programs and on incomplete ones, and lists their faults and oddities.

    For a base model, it shows whether a sidecar can run beside it.

    Exit code 1 if the sidecar cannot be used, or if the base cannot take a sidecar.
    """
    from metadeploy.cli._console import output, print_json
    from metadeploy.sidecar.examination import examine, prefix_of

    examination = examine(file)
    if prefix_of(examination.file) is None and "general.architecture" in examination.file.metadata:
        from metadeploy.sidecar.base_model import base_from_file

        base = base_from_file(examination.file)
        if as_json:
            print_json(_base_json(base))
        else:
            _show_base(output(), base)
        if not base.supports_injection:
            raise Error(f"base model '{file}': no sidecar can run beside its architecture '{base.architecture}'")
    else:
        if as_json:
            print_json(_sidecar_json(examination))
        else:
            _show_sidecar(output(), examination)
        n_faults = len(examination.faults)
        if n_faults:
            count = f"{n_faults} fault{'s' if n_faults > 1 else ''}"
            raise SidecarError(f"sidecar '{file}': cannot be used, {count} listed above")


# -- base models


def _base_json(base: BaseModel) -> dict[str, Any]:
    return {
        "kind": "base model",
        "path": str(base.path),
        "size": base.size,
        "name": base.name,
        "architecture": base.architecture,
        "hidden_dim": base.hidden_dim,
        "block_count": base.block_count,
        "context_length": base.context_length,
        "takes_sidecar": base.supports_injection,
    }


def _show_base(console: Console, base: BaseModel) -> None:
    from metadeploy.cli._console import byte_size, facts_table

    ability = "can" if base.supports_injection else "can NOT"
    facts = {
        "file": f"{base.path}  ({byte_size(base.size)})",
        "what": "a base model, not a sidecar",
        "name": base.name or "-",
        "architecture": f"{base.architecture}: a sidecar {ability} run beside it",
        "width": str(base.hidden_dim),
        "layers": str(base.block_count),
        "context": str(base.context_length or "-"),
    }
    console.print(facts_table(facts))


# -- sidecars


def _gates(file: GGUFFile) -> dict[str, float | None]:
    """Return tanh(gate) of cross-attention and encoder by tensor name; None if it is not a finite number."""
    import math

    gates: dict[str, float | None] = {}
    for name, info in file.tensors.items():
        if name.startswith("enc.layer_gates.") or (name.startswith("ca.") and name.endswith(".gate")):
            try:
                value = math.tanh(float(file.f32(name).reshape(-1)[0]))
            except ValueError:
                value = math.nan
            gates[name] = value if info.size == 1 and math.isfinite(value) else None
    return gates


def _sidecar_json(examination: Examination) -> dict[str, Any]:
    from dataclasses import asdict

    file = examination.file
    return {
        "kind": "sidecar",
        "path": str(file.path),
        "size": file.size,
        "gguf_version": file.version,
        "valid": not examination.faults,
        "faults": list(examination.faults),
        "oddities": list(examination.oddities),
        "config": None if examination.config is None else asdict(examination.config),
        "verdict": None if examination.verdict is None else asdict(examination.verdict),
        "metadata": {key: _finite(value.value) for key, value in file.metadata.items()},
        "gates": _gates(file),
        "n_parameters": sum(info.size for info in file.tensors.values()),
        "tensors": [
            {"name": info.name, "shape": list(info.shape), "type": info.type, "nbytes": info.nbytes}
            for info in file.tensors.values()
        ],
    }


def _finite(value: Any) -> Any:
    """Replace infinities and NaN, which JSON does not have, with text."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)


def _show_sidecar(console: Console, examination: Examination) -> None:
    from rich.markup import escape

    from metadeploy.cli._console import byte_size, facts_table, parameter_count, ranges

    file = examination.file
    parameters = sum(info.size for info in file.tensors.values())
    facts = {
        "file": f"{file.path}  ({byte_size(file.size)}, GGUF version {file.version})",
        "tensors": f"{len(file.tensors)}, {parameter_count(parameters)} parameters",
        "state": "valid" if not examination.faults else f"NOT usable, {len(examination.faults)} fault(s) below",
    }
    config = examination.config
    if config is not None:
        facts |= {
            "kind": config.kind,
            "encoder": f"{config.encoder_type}, width {config.encoder_dim}, "
            f"{config.num_cognitive_tokens} cognitive tokens",
            "target layers": ranges(config.target_layers),
            "injected after": f"{ranges(config.cross_attn_layers)} "
            f"(bottleneck {config.bottleneck_dim}, {config.ca_num_heads} heads, from {config.inject_from})",
        }
        if config.declines:
            facts["declines with"] = f"{config.refusal_text}  (calibrated bias {config.refusal_bias:+g})"
        if examination.verdict is not None:
            facts |= _verdict_facts(examination.verdict)
    elif examination.dims.cross_attn_layers:
        facts["injected after"] = f"{ranges(examination.dims.cross_attn_layers)} (by the tensors' names)"
    console.print(facts_table(facts))
    for title, items in (("faults", examination.faults), ("oddities", examination.oddities)):
        if items:
            console.print(f"\n[bold]{title}[/bold]")
            for item in items:
                console.print(f"  - {escape(item)}", soft_wrap=True)
    _show_metadata(console, file)
    _show_gates(console, file)
    _show_tensors(console, file)


def _verdict_facts(verdict: VerdictConfig) -> dict[str, str]:
    from metadeploy._exact import percent
    from metadeploy.cli._console import ranges

    what = "the first sentence" if verdict.window == "first_sentence" else "whole answers"
    facts = {
        "verdict head": f"judges {what} by layers {ranges(verdict.answer_layers)} of the answer and "
        f"{ranges(verdict.prompt_layers)} of the prompt, {verdict.n_hidden} hidden units"
    }
    for guarantee in verdict.guarantees:
        facts[f"max_error {guarantee.max_error:g}"] = (
            f"keeps answers up to p_wrong {guarantee.threshold:.3f}, {percent(guarantee.coverage)}% of questions like "
            f"'{verdict.questions}': at most {percent(guarantee.max_error, 0)}% of them are wrong, with confidence "
            f"{percent(1 - verdict.delta, 0)}% ({verdict.n_calibration} independent questions)"
        )
    return facts


def _show_metadata(console: Console, file: GGUFFile) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="metadata", title_justify="left", box=None, header_style="dim")
    table.add_column("key", no_wrap=True)
    table.add_column("type")
    table.add_column("value", overflow="fold")
    for key, value in file.metadata.items():
        text = str(value.value)
        if len(text) > _MAX_VALUE_LENGTH:
            text = text[:_MAX_VALUE_LENGTH] + "…"
        table.add_row(escape(key), escape(value.type), escape(text))
    console.print()
    console.print(table)


def _show_gates(console: Console, file: GGUFFile) -> None:
    from rich.markup import escape
    from rich.table import Table

    from metadeploy.cli._console import bar

    gates = _gates(file)
    if not gates:
        return
    table = Table(title="gate strengths, tanh(gate)", title_justify="left", box=None, show_header=False)
    for name, strength in gates.items():
        table.add_row(
            escape(name), "?" if strength is None else f"{strength:+.4f}", "" if strength is None else bar(strength)
        )
    console.print()
    console.print(table)


def _show_tensors(console: Console, file: GGUFFile) -> None:
    from rich.markup import escape
    from rich.table import Table

    from metadeploy.cli._console import byte_size

    table = Table(title="tensors (shapes in PyTorch order)", title_justify="left", box=None, header_style="dim")
    table.add_column("name", no_wrap=True)
    table.add_column("shape")
    table.add_column("type")
    table.add_column("size", justify="right")
    total = 0
    for info in file.tensors.values():
        total += info.nbytes or 0
        size = "?" if info.nbytes is None else byte_size(info.nbytes)
        table.add_row(escape(info.name), escape(str(list(info.shape))), info.type, size)
    table.add_section()
    table.add_row("total", "", "", byte_size(total))
    console.print()
    console.print(table)
