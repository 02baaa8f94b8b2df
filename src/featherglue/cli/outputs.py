"""Check that no command writes to a file or folder that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from featherglue.cli.common import STANDARD_OUTPUT
from featherglue.errors import UsageError

OUTPUTS = ("output", "json_file", "csv_file", "tracks", "plot", "worst_dir")
"""Names of the parameters that name a file or folder to write."""
# Graphs stand beside the weights, and a stopped run continues in its folder.
_ALLOWED = {("export", "model")}


class CheckedCommand(TyperCommand):
    """A command that refuses to write to a file or folder that it reads."""

    def invoke(self, ctx: Any) -> Any:
        """Check the parameters, then run the command.

        Raises:
            UsageError: an output is an input, or two outputs are the same file.
        """
        check_outputs(ctx)
        return super().invoke(ctx)


def check_outputs(context: typer.Context) -> None:
    """Raise UsageError if an output is an input, or two outputs are the same file."""
    flags = {p.name: p.opts[-1] if p.opts else p.name for p in context.command.params}
    inputs: list[tuple[str, str]] = []
    outputs: list[tuple[str, str]] = []
    for name, value in context.params.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        texts = [(name, str(v)) for v in values if isinstance(v, (str, Path))]
        (outputs if name in OUTPUTS else inputs).extend(texts)
    outputs = [(name, text) for name, text in outputs if text != STANDARD_OUTPUT]
    for i, (name, text) in enumerate(outputs):
        for other, path in inputs:
            allowed = (context.info_name, other) in _ALLOWED
            if not allowed and (_is_same(text, path) or _is_image_of(text, path)):
                raise UsageError(
                    f"{flags[name]} {text}: the command reads it; name another file or folder"
                )
        for other, path in outputs[:i]:
            if _is_same(text, path) or Path(text).absolute() == Path(path).absolute():
                raise UsageError(f"{flags[name]} and {flags[other]} name the same file: {text}")


def _is_image_of(output: str, folder: str) -> bool:
    """Whether the output is an image file of a folder that the command reads."""
    from featherglue.io.image import SUFFIXES  # OpenCV takes time to load

    try:
        path, root = Path(output), Path(folder)
        return (
            path.is_file()
            and root.is_dir()
            and path.suffix.lower() in SUFFIXES
            and path.resolve().is_relative_to(root.resolve())
        )
    except (OSError, ValueError):
        return False


def _is_same(output: str, path: str) -> bool:
    """Whether both exist and are the same file or folder."""
    try:
        return Path(output).samefile(path) and not Path(output).is_char_device()
    except (OSError, ValueError):
        return False
