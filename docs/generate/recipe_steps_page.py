"""The reference page of recipe steps, generated from their configurations."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from page_text import attribute_help, code, first_paragraph, table

from featherglue.compression.steps import STEP_KINDS


def recipe_steps_page() -> str:
    """The page as Markdown."""
    parts = [
        "# Recipe steps",
        "",
        "A recipe is a TOML file with a list of steps. Each step is a table `[[steps]]` with the "
        "key `step`, the name of the step, and the keys below. `include` and `exclude` are glob "
        "patterns of layer names, as `featherglue info --layers` shows them. See the "
        "[tutorial](../tutorial/compress.md) for examples.",
        "",
    ]
    for name, kind in STEP_KINDS.items():
        parts += [f"## {name}", "", first_paragraph(kind.config), ""]
        fields = dataclasses.fields(kind.config)
        if fields:
            meaning = attribute_help(kind.config)
            rows = [
                [code(f.name), _type(f.type), meaning.get(f.name, ""), _default(f)] for f in fields
            ]
            parts.append(table(["key", "value", "meaning", "default"], rows))
        else:
            parts.append("It has no other keys.\n")
    return "\n".join(parts)


def _type(annotation: Any) -> str:
    text = str(annotation)
    text = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", '"'), text)
    return code(text.replace(", ", " | ") if text.startswith('"') else text)


def _default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return "" if field.default is None else code(_toml(field.default))
    if field.default_factory is not dataclasses.MISSING:
        return code(_toml(field.default_factory()))
    return "required"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)
