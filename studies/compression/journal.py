"""A journal of the steps of a long computation, so that a stopped run can continue."""

from __future__ import annotations

import datetime
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featherglue.errors import StoredFileWarning, UsageError
from featherglue.fingerprint import fingerprint
from featherglue.io.files import write_json
from featherglue.io.json import read_json
from featherglue.machine import describe_machine

_CHECKSUM = "checksum"


class Journal:
    """Results of finished steps, stored in a JSON file.

    Args:
        path: path of the file.

    Raises:
        UsageError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                self.steps = _checked_steps(read_json(path, finite=False))
            except (OSError, ValueError, TypeError) as error:
                raise UsageError(f"{path}: damaged ({error}); remove it to start again") from None

    def step(
        self,
        name: str,
        inputs: Mapping[str, Any],
        compute: Callable[[], Any],
        product: Path | None = None,
    ) -> Any:
        """Return the stored result of a step if its inputs are the same, else compute it.

        Args:
            name: name of the step.
            inputs: plain values that determine the result.
            compute: returns the result as plain values.
            product: file or folder that the step writes. If it is missing, the step is repeated.
        """
        key = fingerprint(inputs)
        if self.is_done(name, inputs, product):
            stored = self.steps[name]
            print(f"  {name}: done before, in {format_duration(stored['seconds'])}", flush=True)
            return stored["result"]
        print(f"  {name} …", flush=True)
        start = time.monotonic()
        result = compute()
        seconds = time.monotonic() - start
        self.steps[name] = _with_checksum(
            {
                "key": key,
                "seconds": round(seconds, 1),
                "result": result,
                "origin": current_origin(),
            }
        )
        write_json(self.path, self.steps)
        print(f"  {name}: {format_duration(seconds)}", flush=True)
        return result

    def is_done(self, name: str, inputs: Mapping[str, Any], product: Path | None = None) -> bool:
        """Return whether `step` would return a stored result."""
        stored = self.steps.get(name)
        exists = product is None or product.exists()
        return stored is not None and stored["key"] == fingerprint(inputs) and exists

    def origin(self, name: str) -> dict[str, Any]:
        """Return when and where a step ran; see `current_origin`. {} if that is unknown."""
        return dict(self.steps.get(name, {}).get("origin", {}))

    def seconds(self, name: str) -> float:
        """Return the duration of a finished step, or 0 if it is not finished."""
        return float(self.steps.get(name, {}).get("seconds", 0.0))


def today() -> str:
    """Return the date (UTC), such as "2026-11-26"."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def current_origin() -> dict[str, Any]:
    """Return the `date` (UTC), and `processor`, `flags` and number of `cores` of this machine."""
    machine = describe_machine()
    return {"date": today()} | {name: machine[name] for name in ("processor", "flags", "cores")}


def _checked_steps(stored: Any) -> dict[str, dict[str, Any]]:
    """The intact steps of a journal; the others are repeated.

    Raises:
        ValueError: a step lacks a part.
    """
    if not isinstance(stored, dict):
        raise ValueError("not a table of steps")
    for name, step in stored.items():
        parts = isinstance(step, dict) and {"key", "seconds", "result"} <= step.keys()
        if not parts or not isinstance(step["seconds"], (int, float)):
            raise ValueError(f"the step {name!r} is incomplete")
    damaged = [name for name, step in stored.items() if not _is_intact(step)]
    if damaged:
        warnings.warn(
            f"damaged steps are repeated: {', '.join(damaged)}", StoredFileWarning, stacklevel=3
        )
    return {name: step for name, step in stored.items() if name not in damaged}


def _with_checksum(step: dict[str, Any]) -> dict[str, Any]:
    """The step with the fingerprint of its values, as they are read from the file."""
    values = json.loads(json.dumps(step))
    return {**step, _CHECKSUM: fingerprint(values)}


def _is_intact(step: Mapping[str, Any]) -> bool:
    """Whether the checksum is correct; journals of earlier versions have none."""
    values = {name: value for name, value in step.items() if name != _CHECKSUM}
    return bool(step.get(_CHECKSUM, found := fingerprint(values)) == found)


def format_duration(seconds: float) -> str:
    """Return a duration in seconds or minutes, such as "7.5 min"."""
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
