"""Gates and token preferences of a trained wrapper's cross-attention, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike
from scipy.special import softmax

from metadeploy.errors import Error
from metadeploy.plots.style import BLUE, DARK, VERMILION, page, per_cent

__all__ = ["gates_and_preferences"]


def gates_and_preferences(gates: Mapping[int, float], preferences: ArrayLike, path: Path) -> None:
    """Draw tanh(gate) of each cross-attention layer, and its attention if all scores are equal.

    Args:
        gates: the stored gate by cross-attention layer (before tanh), finite.
        preferences: ``token_preference``, float [n_layers, C], rows in the order of ``gates``; drawn as their softmax.
        path: ``.png`` or ``.svg``.

    Raises:
        Error: the shapes do not fit each other, a value is not finite, or the file cannot be written.
    """
    layers = sorted(gates)
    biases = np.asarray(preferences, dtype=np.float64)
    if not layers or biases.ndim != 2 or len(biases) != len(layers) or not biases.shape[1]:
        raise Error(
            f"plot '{path}': preferences have shape {list(biases.shape)}, expected [{len(layers)}, C] for "
            f"{len(layers)} gates"
        )
    strengths = np.tanh([gates[layer] for layer in layers])
    if not (np.isfinite(biases).all() and np.isfinite(strengths).all()):
        raise Error(f"plot '{path}': gates or preferences are not finite, expected numbers")
    rows = [list(gates).index(layer) for layer in layers]
    attention = softmax(biases[rows], axis=1)
    n_tokens = attention.shape[1]
    strongest = int(np.argmax(np.abs(strengths)))
    title = f"The gates inject most after block {layers[strongest]}: tanh(gate) = {strengths[strongest]:+.3f}"
    caption = (
        f"{len(layers)} cross-attention layers, {n_tokens} cognitive tokens. Right: softmax of token_preference, the "
        f"attention if all scores are equal; uniform would be {per_cent(1 / n_tokens, digits=1)}. Neither of them "
        "proves that a wrapper works."
    )
    with page(path, title=title, caption=caption, height=max(3.4, 1.9 + 0.27 * len(layers))) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
        positions = range(len(layers))
        left.barh(positions, strengths, color=[BLUE if value >= 0 else VERMILION for value in strengths], height=0.72)
        left.axvline(0, color=DARK, linewidth=1)
        left.set_yticks(positions, [str(layer) for layer in layers])
        left.set_ylim(-0.5, len(layers) - 0.5)
        left.set_ylabel("after block")
        left.set_xlabel("tanh(gate)")
        left.grid(axis="y", visible=False)
        # a completely uniform softmax would leave the colors without a range
        spread = max(float(np.abs(attention - 1 / n_tokens).max()), 1e-6)
        norm = CenteredNorm(1 / n_tokens, halfrange=spread)
        image = right.imshow(attention, cmap="PuOr_r", norm=norm, aspect="auto", origin="lower", interpolation="none")
        right.set_xlabel("cognitive token")
        right.set_xticks(range(0, n_tokens, max(1, n_tokens // 8)))
        right.grid(visible=False)
        right.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=right, format=PercentFormatter(1.0, decimals=1, symbol=" %"), pad=0.03)
        bar.outline.set_visible(False)
        bar.ax.set_title("attention", fontsize=10, loc="left")
