"""``metadeploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from metadeploy._types import OutType
from metadeploy.cli._flags import Flag, Panel, takes

if TYPE_CHECKING:
    from metadeploy.export import ExportReport

__all__ = ["register"]

_EPILOG = """\
[bold]Examples[/bold]

  metadeploy export runs/doubter_checkpoint.pt            [dim]# with the run.json beside it[/dim]

  metadeploy export runs/ --outtype q8_0 -o small.gguf    [dim]# a quarter of the size[/dim]

  metadeploy export doubter.pt --base base-Q4_K_M.gguf    [dim]# does the base fit?[/dim]

  metadeploy export doubter.pt --target-layers late:32    [dim]# without a run.json[/dim]

  metadeploy export --run-dir runs/ --out small.gguf      [dim]# as the meta-spider framework spells it[/dim]
"""

_LAYER_OPTIONS: Final = ("--target-layers", "--cross-attn-layers")


class _Command(TyperCommand):
    """Accepts several numbers after an option for layers, as the framework's command does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the numbers with commas, so that they are one value."""
        joined: list[str] = []
        for arg in args:
            after_layers = len(joined) > 1 and joined[-2] in _LAYER_OPTIONS and not joined[-1].startswith("-")
            if after_layers and arg.isdecimal():
                joined[-1] += f",{arg}"
            else:
                joined.append(arg)
        return super().parse_args(ctx, joined)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="export", cls=_Command, epilog=_EPILOG, short_help="Convert a PyTorch checkpoint into a sidecar GGUF."
    )(_export)


_FLAGS: Final = Panel(
    None,
    None,
    outtype=Flag("Type of the weight matrices; norms, biases, gates and queries stay F32.", OutType, "f32"),
    run_json=Flag("The training manifest.", Path | None, None, more={"show_default": "run.json beside the checkpoint"}),
    target_layers=Flag("Layers that the encoder reads: 21-31, 1,5,7-9, '1 5 9', late:32 or all:32.", str | None, None),
    cross_attn_layers=Flag(
        "Layers after which the injection happens; by default the layers of the tensors.", str | None, None
    ),
    hidden_dim=Flag("Width of the base; by default the width of the tensors.", int | None, None, more={"min": 1}),
    num_layers=Flag("Layers of the base, for 'late' and 'all' without a number.", int | None, None, more={"min": 1}),
    base=Flag("GGUF of the base model: checks width, layers and architecture.", Path | None, None),
    refusal_text=Flag(
        "Refusal with which it was trained.",
        str | None,
        None,
        more={"metavar": "TEXT", "show_default": "as checkpoint or run.json say"},
    ),
)


@takes(_FLAGS)
def _export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A .pt or .safetensors file, or the run directory that has one.",
            show_default=False,
        ),
    ] = None,
    checkpoint_option: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="The checkpoint, in the framework's spelling.", show_default=False),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="The run directory, in that spelling.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            "--out",
            help="The sidecar.",
            show_default="<kind>_sidecar.gguf beside the checkpoint, as in doubter_sidecar.gguf",
        ),
    ] = None,
    *,
    name: Annotated[str | None, typer.Option(help="Name in the file.", show_default="after the base")] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="SPDX license identifier.", show_default="run.json's, or unknown")
    ] = None,
    description: Annotated[str | None, typer.Option(help="One sentence about the wrapper.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing sidecar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")] = False,
    **flags: Any,
) -> None:
    """Convert a trained Doubter (PyTorch checkpoint) into a sidecar that runs beside the base model's GGUF.

    The tensors must agree with run.json and the options. If they do not, all contradictions are reported at once.

    No code inside the checkpoint is ever executed.
    """
    from metadeploy.cli._console import checked_refusal_text, print_json, progress_bar
    from metadeploy.export import export
    from metadeploy.sidecar import Metadata

    source = _source(checkpoint, checkpoint_option, run_dir)
    texts = {"name": name, "license": license_id, "description": description}
    fields: dict[str, Any] = {key: text for key, text in texts.items() if text is not None}
    refusal_text = checked_refusal_text(flags["refusal_text"])
    with progress_bar("exporting") as progress:
        report = export(
            source,
            **{**flags, "refusal_text": refusal_text},
            output=output,
            metadata=Metadata(**fields),
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(_as_json(report))
    else:
        _summary(report)


def _source(argument: Path | None, option: Path | None, run_dir: Path | None) -> Path:
    """Return the one checkpoint or run directory that the arguments name."""
    sources = [path for path in (argument, option, run_dir) if path is not None]
    if not sources:
        raise typer.BadParameter("is missing: name a checkpoint or a run directory", param_hint="'CHECKPOINT'")
    if len(sources) > 1:
        raise typer.BadParameter(
            f"{', '.join(map(str, sources))} are given, expected one checkpoint or run directory",
            param_hint="'CHECKPOINT'",
        )
    if run_dir is not None and not run_dir.is_dir():
        raise typer.BadParameter(f"'{run_dir}' is not a directory", param_hint="'--run-dir'")
    return sources[0]


def _as_json(report: ExportReport) -> dict[str, Any]:
    from dataclasses import asdict

    config = asdict(report.config)
    return {
        "path": str(report.path),
        "size": report.size,
        "sha256": report.sha256,
        "outtype": report.outtype,
        "tensor_types": dict(report.tensor_types),
        "n_parameters": report.n_parameters,
        "gates": {str(layer): strength for layer, strength in report.gates.items()},
        "checkpoint": str(report.checkpoint),
        "base": None if report.base is None else str(report.base),
        "config": config,
        "notes": list(report.notes),
    }


def _summary(report: ExportReport) -> None:
    from rich.markup import escape

    from metadeploy.cli._console import byte_size, facts_table, output, parameter_count, ranges

    config = report.config
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(report.tensor_types.items()))
    gates = sorted(report.gates.values())
    encoder = f"{config.encoder_type}, width {config.encoder_dim}"
    if config.encoder_type != "selective":
        encoder += f", {config.enc_num_heads} heads"
    facts = {
        "sidecar": f"{report.path}  ({byte_size(report.size)})",
        "for": f"{config.base_model or 'an unnamed base'}: width {config.hidden_dim}, "
        f"{config.base_block_count or 'unknown number of'} layers",
        "encoder": f"{encoder}; {config.num_cognitive_tokens} cognitive tokens "
        f"from layers {ranges(config.target_layers)}",
        "injection": f"after layers {ranges(config.cross_attn_layers)}, bottleneck {config.bottleneck_dim}, "
        f"{config.ca_num_heads} heads, "
        + ("at every position" if config.inject_from == "prompt" else "from the last prompt token on"),
        "gates": f"tanh(gate) {gates[0]:+.3f} to {gates[-1]:+.3f}",
        "parameters": f"{parameter_count(report.n_parameters)} in {sum(report.tensor_types.values())} tensors: {types}",
        "sha256": report.sha256,
    }
    if config.declines:
        facts["refusal"] = config.refusal_text
    else:
        facts["kind"] = config.kind
    if report.base is not None:
        facts["checked"] = f"fits {report.base}"
    console = output()
    console.print(facts_table(facts))
    for note in report.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    base = report.base or "BASE.gguf"
    console.print(
        f"\nnext: llama-meta-generate -m {escape(str(base))} --meta {escape(str(report.path))} -p 'A question'",
        soft_wrap=True,
    )
