"""Colors, markers and line styles of the figures.

The colors are those of Okabe and Ito (2008), which color-blind readers can tell apart. Every color
has its own marker and line style, so that prints in gray are readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NETWORKS = {"extractor": "SuperPoint", "matcher": "SuperGlue"}
BLACK, GRAY = "#000000", "#888888"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", BLACK, "#F0E442")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1)),
    (0, (1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (7, 2)),
)


@dataclass(frozen=True, kw_only=True)
class Style:
    """The appearance of a series."""

    color: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]


def style(index: int) -> Style:
    """Return the style of a series by its number. Styles repeat after eight."""
    i = index % len(_COLORS)
    return Style(color=_COLORS[i], marker=_MARKERS[i], line=_LINES[i])


def short_name(layer: str) -> str:
    """Return a layer name without its network, such as "gnn 3 mlp.0"."""
    name = layer.partition(".")[2] or layer
    return name.replace("gnn.layers.", "gnn ").replace(".attn.", " ").replace(".mlp.", " mlp.")


def networks_of(layers: Sequence[str]) -> list[str]:
    """Return the networks that have one of the layers, SuperPoint first."""
    return [name for name in NETWORKS if any(layer.startswith(f"{name}.") for layer in layers)]
