"""Small Markdown building blocks of the generated pages."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in the cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in lines)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells) + "\n"


def code(text: object) -> str:
    """The text as inline code."""
    return f"`{text}`"


def with_code(text: str, names: Iterable[str]) -> str:
    """The text with each whole-word occurrence of the names as inline code."""
    pattern = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return re.sub(rf"(?<![\w`-])({pattern})(?![\w`-])", r"`\1`", text)


def first_paragraph(documented: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())


def attribute_help(cls: type) -> dict[str, str]:
    """The text of each field in the "Attributes" section of a dataclass docstring, capitalized."""
    docstring = inspect.getdoc(cls) or ""
    _, found, section = docstring.partition("Attributes:\n")
    if not found:
        return {}
    section = re.split(r"\n\S", section, maxsplit=1)[0]
    names = [field.name for field in dataclasses.fields(cls)]
    help_texts: dict[str, str] = {}
    current: list[str] = []
    for line in section.splitlines():
        head, colon, rest = line.strip().partition(":")
        fields = [name.strip() for name in head.split(",")]
        if colon and all(name in names for name in fields):
            current = fields
            help_texts |= {name: rest.strip() for name in fields}
        elif current and line.strip():
            help_texts |= {name: f"{help_texts[name]} {line.strip()}" for name in current}
    return {name: text[:1].upper() + text[1:] for name, text in help_texts.items()}
