"""What the pictures have in common: their letters, their grid, and that the same figures give the same file.

Importing it raises ImportError where matplotlib is missing, which is among the tools for tests and checks only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0b6fa4", "#d1641b", "#2e7d32", "#777777"  # apart also for the colour-blind
# Of a picture without a background of its own: to be read on white and on near black
NEUTRAL: dict[str, Any] = {
    "text.color": "#808080", "axes.labelcolor": "#808080", "axes.edgecolor": "#808080", "axes.titlecolor": "#808080",
    "xtick.color": "#808080", "ytick.color": "#808080", "grid.color": "#808080", "grid.alpha": 0.3,
    "savefig.transparent": True}


@contextmanager
def style(salt: str, **more: Any) -> Iterator[None]:
    """Draw and save inside of this; `salt` makes the ids of an SVG, `more` are settings of matplotlib."""
    common: dict[str, Any] = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#dddddd", "grid.linewidth": 0.6, "svg.hashsalt": salt, "svg.fonttype": "none",
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"]}
    with mpl.rc_context(common | more):
        yield


def save(figure: Figure, path: Path) -> None:
    """As SVG or PNG by the name of the file."""
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=110, metadata=metadata)
