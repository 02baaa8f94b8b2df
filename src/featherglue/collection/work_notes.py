"""The notes of a work folder: what each finished step was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from featherglue.io.files import write_json


class WorkNotes:
    """A JSON file with a value for each step.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """All notes by step; none if the file is missing or damaged: the steps are repeated."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        return found if isinstance(found, dict) else {}

    def write(self, step: str, value: Any) -> None:
        """Replace the note of a step. Raises OutputError."""
        write_json(self._path, {**self.read(), step: value})
