"""The style of all plots, and how they are saved: a white page, the main result as title, a caption with the details.

Nothing depends on the user's matplotlib settings, a display or the clock, so the same figures give the same bytes with
the same version of matplotlib.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metadeploy._exact import percent
from metadeploy._files import write_atomically
from metadeploy.errors import Error

__all__ = ["BLUE", "COLORS", "DARK", "GRAY", "LIGHT", "SKY", "VERMILION", "page", "per_cent", "per_cent_axis"]

BLUE: Final = "#0072B2"
SKY: Final = "#56B4E9"
VERMILION: Final = "#D55E00"
#: Okabe and Ito's palette without its yellow and black. People with any color vision can distinguish these colors.
COLORS: Final = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", SKY)
DARK: Final = "#333333"
GRAY: Final = "#767676"
LIGHT: Final = "#DDDDDD"

_WIDTH: Final = 8.4  # inches; with this width, text of 11 pt is as large as the text of a README
_DPI: Final = 144  # twice the resolution of a page, so that the plot is sharp on dense screens
_TITLE_CHARACTERS: Final = 66
_CAPTION_CHARACTERS: Final = 116
#: savefig must leave these out, so that the bytes depend only on the figures.
_METADATA: Final[dict[str, dict[str, Any]]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
_STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": DARK,
    "axes.labelcolor": DARK,
    "axes.edgecolor": GRAY,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#EBEBEB",
    "xtick.color": DARK,
    "ytick.color": DARK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 8,
    "ytick.major.pad": 8,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "metadeploy",
}


@contextmanager
def page(path: Path, *, title: str, caption: str, height: float) -> Iterator[Figure]:
    """Yield a figure to draw on, and save it when the ``with`` block ends without an error.

    Args:
        path: ``.png`` or ``.svg``; an existing file is replaced as a whole or not at all.
        title: the main result, as a sentence.
        caption: n, and how to read the marks.
        height: height of the figure in inches.

    Yields:
        The empty figure.

    Raises:
        Error: the suffix is another one, or the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _METADATA:
        raise Error(f"plot '{path}': suffix is '{path.suffix}', expected .png or .svg")
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr,call-arg]
        figure.suptitle(
            textwrap.fill(title, _TITLE_CHARACTERS), x=0.015, ha="left", fontsize=13, fontweight="bold", color="#111111"
        )
        figure.supxlabel(
            textwrap.fill(caption, _CAPTION_CHARACTERS), x=0.015, ha="left", fontsize=9, color=GRAY, linespacing=1.4
        )
        yield figure
        _save(figure, path, kind)


def _save(figure: Figure, path: Path, kind: str) -> None:
    image = io.BytesIO()
    figure.savefig(image, format=kind, dpi=_DPI, metadata=_METADATA[kind])
    try:
        write_atomically(path, image.getvalue())
    except OSError as error:
        raise Error(f"plot '{path}': cannot be written ({error.strerror or error})") from error


def per_cent(value: float, *, digits: int = 0) -> str:
    """Format a proportion: ``28 %``, with a space at which the line never breaks."""
    return f"{percent(value, digits)}\N{NO-BREAK SPACE}%"


def per_cent_axis(axes: Axes, which: str, low: float = 0.0, high: float = 1.0) -> None:
    """Scale an axis (``x`` or ``y``) for proportions, with labels in percent."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    if which == "x":
        axes.set_xlim(low, high)
    else:
        axes.set_ylim(low, high)
