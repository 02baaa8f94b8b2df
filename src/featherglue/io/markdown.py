"""Line breaks in Markdown."""

from __future__ import annotations

import textwrap
from itertools import groupby

_WIDTH = 100  # characters
_KEPT = "\0"  # stands for a space at which no line is broken
# Starts of lines that are not part of a paragraph: headings, tables, pictures, quotations, lists,
# comments and HTML, and indented lines.
_OTHER = ("#", "|", "!", ">", "- ", "* ", "<", " ", "\t")


def wrap_paragraphs(text: str, width: int = _WIDTH) -> str:
    """Wrap the lines of paragraphs, and leave all other lines as they are.

    Args:
        text: Markdown. A paragraph starts after an empty line; a block of code is fenced by ```.
        width: maximum number of characters of a line. Longer words are not broken, and a percent
            sign stays with its number.
    """
    lines: list[str] = []
    fenced = False
    for kind, block in groupby(text.split("\n"), key=lambda line: bool(line.strip())):
        found = list(block)
        if kind and not fenced and _is_paragraph(found):
            joined = " ".join(found).replace(" %", f"{_KEPT}%")
            wrapped = textwrap.wrap(joined, width, break_long_words=False, break_on_hyphens=False)
            found = [line.replace(_KEPT, " ") for line in wrapped]
        fenced ^= sum(line.startswith("```") for line in found) % 2 == 1
        lines += found
    return "\n".join(lines)


def _is_paragraph(lines: list[str]) -> bool:
    return not any(line.startswith((*_OTHER, "```")) for line in lines)
