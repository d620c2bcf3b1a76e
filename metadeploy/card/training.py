"""The table of a card about training, from run.json. Values that run.json does not have are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metadeploy._format import count, number, percent
from metadeploy._types import SPLITS
from metadeploy.card.facts import short_name
from metadeploy.card.markdown import code, escape, table

__all__ = ["training_table"]


def training_table(manifest: Mapping[str, Any]) -> str:
    """Format base, questions, wrapper and training settings.

    Args:
        manifest: run.json.
    """
    return table(("", ""), ((f"**{title}**", text) for title, text in _rows(manifest)), n_text=2)


def _rows(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    trained = manifest.get("train") or {}
    if "model_name" in manifest:
        types = ", ".join(str(manifest[key]) for key in ("dtype", "quantization") if manifest.get(key))
        yield "base", escape(short_name(str(manifest["model_name"]))) + (f" ({escape(types)})" if types else "")
    if "dataset" in manifest:
        sizes = [f"{count(manifest[f'{split}_size'])} {split}" for split in SPLITS if f"{split}_size" in manifest]
        name = Path(short_name(str(manifest["dataset"]))).stem
        yield "questions", escape(name) + (f": {', '.join(sizes)}" if sizes else "")
    if trained.get("leave_out"):
        yield "left out of training", ", ".join(escape(str(kind)) for kind in trained["leave_out"])
    if manifest.get("answer_suffix"):
        yield "answer suffix", code(str(manifest["answer_suffix"]))
    for title, key in (("encoder reads layers", "target_layers"), ("injects after layers", "cross_attn_layers")):
        if key in manifest:
            yield title, _layers(manifest[key])
    if "inject_from" in manifest:
        is_everywhere = manifest["inject_from"] == "prompt"
        yield "injects", "at every position" if is_everywhere else "from the last prompt token on"
    encoder = [escape(str(manifest["encoder_type"]))] if "encoder_type" in manifest else []
    encoder += [f"width {trained['bottleneck_dim']}"] if "bottleneck_dim" in trained else []
    if encoder:
        yield "encoder", ", ".join(encoder)
    yield from _training_rows(trained)
    if "refusal_bias" in manifest:
        yield "calibrated bias of the refusal", number(manifest["refusal_bias"])


def _training_rows(trained: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "best_epoch" in trained:
        yield "epochs", f"{trained['best_epoch']} (the best of {trained['epochs_done']} on the validation questions)"
    fit = trained.get("fit") or {}
    settings = [f"{title} {fit[key]}" for title, key in _FIT_SETTINGS if key in fit]
    if settings:
        yield "optimization", "AdamW, " + ", ".join(settings)
    point, val = trained.get("point") or {}, trained.get("val") or {}
    targets = [f"{title} {percent(point[key])}" for title, key in _TARGETS if point.get(key) is not None]
    if targets:
        reached = [f"{title} {percent(val[key])}" for title, key in _VAL_METRICS if val.get(key) is not None]
        yield "operating point", f"{', '.join(targets)} on the validation questions ({', '.join(reached)})"


_FIT_SETTINGS = (
    ("learning rate", "lr"),
    ("batch", "batch_size"),
    ("dropout of activations", "dropout"),
    ("seed", "seed"),
)
_TARGETS = (("over-refusal at most", "max_over_refusal"), ("coverage", "target_coverage"))
_VAL_METRICS = (
    ("coverage", "coverage"),
    ("selective accuracy", "selective_accuracy"),
    ("over-refusal", "over_refusal"),
)


def _layers(layers: str | Sequence[int]) -> str:
    if isinstance(layers, str):
        return escape(layers)
    consecutive = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if consecutive else ", ".join(map(str, layers))
