"""Colors, markers and line styles of the figures.

The colors are those of Okabe and Ito (2008), which color-blind readers can tell apart, with a
darker yellow that is visible on white. Every color has its own marker and line style, so that
prints in gray are readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NETWORKS = {"extractor": "SuperPoint", "matcher": "SuperGlue"}
BLACK, GRAY = "#000000", "#888888"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", BLACK, "#B8A000")
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


# Parts of layer names and what figures call them.
_SHORT = {
    "gnn.layers.": "gnn ",
    ".attn.proj.0": " query",
    ".attn.proj.1": " key",
    ".attn.proj.2": " value",
    ".attn.": " ",
    ".mlp.": " mlp.",
    "kenc.encoder.": "kenc ",
}


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
    """Return a layer name without its network, such as "gnn 3 mlp.0" or "gnn 3 query"."""
    name = layer.partition(".")[2] or layer
    for old, new in _SHORT.items():
        name = name.replace(old, new)
    return name


def networks_of(layers: Sequence[str]) -> list[str]:
    """Return the networks that have one of the layers, SuperPoint first."""
    return [name for name in NETWORKS if any(layer.startswith(f"{name}.") for layer in layers)]
