"""Steps of long work: each is done once, and a run that was stopped goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featherglue.errors import UsageError
from featherglue.fingerprint import fingerprint
from featherglue.io.files import write_json


class Journal:
    """Results of finished steps, in a JSON file.

    Args:
        path: of the file.

    Raises:
        UsageError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                self.steps = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise UsageError(f"{path}: damaged ({error}); remove it to begin anew") from None

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[], Any],
        made: Path | None = None,
    ) -> Any:
        """The result of a step: kept if it was done with the same inputs, else done now.

        Args:
            inputs: plain values, all that shapes the result. work: gives plain values.
            made: what the step leaves; where it is missing the step is done again.
        """
        key = fingerprint(inputs)
        kept = self.steps.get(name)
        there = made is None or made.exists()
        if kept is not None and kept["key"] == key and there:
            print(f"  {name}: done before, in {said(kept['seconds'])}", flush=True)
            return kept["result"]
        print(f"  {name} …", flush=True)
        start = time.monotonic()
        result = work()
        seconds = time.monotonic() - start
        self.steps[name] = {"key": key, "seconds": round(seconds, 1), "result": result}
        write_json(self.path, self.steps)
        print(f"  {name}: {said(seconds)}", flush=True)
        return result

    def seconds(self, name: str) -> float:
        """What a finished step took; 0 for one that was not done."""
        return float(self.steps.get(name, {}).get("seconds", 0.0))


def said(seconds: float) -> str:
    """A time as people say it."""
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
