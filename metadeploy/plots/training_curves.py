"""Losses and validation AUROC during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.ticker import MaxNLocator

from metadeploy.errors import Error
from metadeploy.plots.style import BLUE, GRAY, VERMILION, page

__all__ = ["training_curves"]


def training_curves(
    rows: Sequence[Mapping[str, float | None]], path: Path, *, by: Literal["epoch", "step"] = "epoch"
) -> None:
    """Draw the losses, and below them the AUROC of doubt on the validation questions.

    Args:
        rows: in ascending order; each has ``by`` and some of ``loss``, ``val_loss``, ``val_auroc`` (None or absent if
            it was not measured).
        path: ``.png`` or ``.svg``.
        by: the key of the horizontal axis.

    Raises:
        Error: there is nothing to draw, or the file cannot be written.
    """
    curves = {key: _curve(rows, by, key) for key in ("loss", "val_loss", "val_auroc")}
    if not any(curves.values()):
        raise Error(f"plot '{path}': {len(rows)} rows without a loss or AUROC by {by}, expected at least one")
    measured = curves["val_auroc"]
    at, best = max(measured, key=lambda point: point[1], default=(0.0, 0.0))
    title = f"Best validation AUROC {best:.3f}, at {by} {at:g}" if measured else f"Loss by {by}"
    end = max(points[-1][0] for points in curves.values() if points)
    caption = f"Trained to {by} {end:g}."
    if measured:
        caption += " AUROC: how often an error of the base has more doubt than a right answer."
    with page(path, title=title, caption=caption, height=5.4 if measured else 3.6) as figure:
        axes = figure.subplots(2 if measured else 1, 1, sharex=True, squeeze=False)[:, 0]
        for key, label, color in (("loss", "training", GRAY), ("val_loss", "validation", BLUE)):
            if curves[key]:
                marker = "o" if key == "val_loss" else None
                axes[0].plot(*zip(*curves[key], strict=True), color=color, label=label, marker=marker, markersize=5)
        axes[0].set_ylabel("loss")
        axes[0].legend(loc="upper right")
        if measured:
            axes[1].plot(*zip(*measured, strict=True), color=BLUE, marker="o", markersize=5)
            axes[1].plot(at, best, "o", color=VERMILION, markersize=9)
            axes[1].annotate(
                f"{best:.3f}", (at, best), xytext=(0, -16), textcoords="offset points", ha="center", color=VERMILION,
                fontweight="bold",
            )  # fmt: skip
            axes[1].set_ylabel("validation AUROC")
            axes[1].margins(y=0.2)
        axes[-1].set_xlabel(by)
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def _curve(rows: Sequence[Mapping[str, float | None]], by: str, key: str) -> list[tuple[float, float]]:
    points = ((row.get(by), row.get(key)) for row in rows)
    return [(at, value) for at, value in points if at is not None and value is not None]
