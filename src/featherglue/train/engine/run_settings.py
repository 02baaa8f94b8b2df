"""The settings of a run: read from TOML, stored as `stage.json`, and compared on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from featherglue.config import from_dict, to_dict
from featherglue.errors import ConfigError, TrainingError
from featherglue.io.files import write_json
from featherglue.io.json import read_json
from featherglue.io.toml import read_toml
from featherglue.train.engine.log_files import LAST

FILE = "stage.json"
T = TypeVar("T")
# Settings of the loop that may change when a run resumes.
_RESUMABLE = ("steps", "workers", "save_seconds")
# Settings of stages that were renamed, by their table; "" has those outside of tables.
_STRENGTH = {"light": "photometric_strength"}
_RENAMED: dict[str, dict[str, str]] = {
    "": {"fewest": "min_keypoints", "most": "max_keypoints", "imitation": "distillation"},
    "labels": {"most": "max_labels", **_STRENGTH},
    "views": {"points": "max_points", **_STRENGTH},
    "scenes": {"planes": "max_planes", **_STRENGTH},
    "spatial_views": {"planes": "max_planes", **_STRENGTH},
    "shapes": _STRENGTH,
    "loss": {"imitation": "descriptors"},
    "validation": {"share": "fraction"},
}


def read_stage(cls: type[T], path: str | os.PathLike[str]) -> T:
    """Read the configuration of a stage from a TOML file.

    Args:
        cls: class of the configuration, such as `SuperPointStage`.

    Raises:
        ConfigError: the file is missing or not TOML, or a key is unknown, renamed or missing.
    """
    return stage_from_dict(cls, read_toml(path), str(path))


def stage_from_dict(cls: type[T], settings: Mapping[str, Any], source: str) -> T:
    """The configuration of a stage from plain values.

    Args:
        source: where the values come from, for messages.

    Raises:
        ConfigError: a key is unknown, renamed or missing.
    """
    for table, renamed in _RENAMED.items():
        values = settings.get(table) if table else settings
        if not isinstance(values, Mapping):
            continue
        prefix = f"{table}." if table else ""
        for old, new in renamed.items():
            if old in values:
                raise ConfigError(f"{source}: {prefix}{old} has been renamed; use {prefix}{new}")
    return from_dict(cls, dict(settings), source)


def check_settings(
    stage: Any, folder: str | os.PathLike[str], inputs: Mapping[str, Any] | None = None
) -> None:
    """Write the settings of a new run to `stage.json`, or check those of a run that resumes.

    A run may resume with another number of steps (unless one of the two is derived from a time
    limit), another number of workers and another time between checkpoints.

    Args:
        stage: configuration with `loop` and `seed`.
        folder: folder of the run.
        inputs: plain values that replace settings in the comparison, such as the fingerprint of a
            model instead of its folder.

    Raises:
        ConfigError: the seed is negative.
        TrainingError: the run in `folder` has other settings, or its settings cannot be read.
        OutputError: the file cannot be written.
    """
    if stage.seed < 0:
        raise ConfigError(f"seed must be at least 0, not {stage.seed}")
    path, inputs = Path(folder) / FILE, inputs or {}
    settings = json.loads(json.dumps(to_dict(stage) | dict(inputs)))
    if path.exists() and (Path(folder) / LAST).exists():
        try:
            before = current_names(read_json(path))
            timed = not before["loop"]["steps"], not settings["loop"]["steps"]
            for name in _RESUMABLE:
                if name != "steps" or timed[0] == timed[1]:
                    before["loop"][name] = settings["loop"][name]
            before = _with_defaults(before, stage, inputs)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{path}: damaged ({error}); remove it to resume with these settings"
            ) from None
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            where = _first_difference(changed[0], before.get(changed[0]), settings[changed[0]])
            raise TrainingError(
                f"{folder}: its run has other settings ({where}); choose another folder"
            )
    write_json(path, settings)


def with_stored_warmup(stage: T, folder: str | os.PathLike[str]) -> T:
    """The stage with the warm-up of the run in `folder`, if there is one.

    A warm-up that was derived from the number of steps must not change when a run resumes with
    another number of steps.
    """
    try:
        stored = read_json(Path(folder) / FILE)
        loop = replace(stage.loop, warmup=int(stored["loop"]["warmup"]))  # type: ignore[attr-defined]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return stage  # `check_settings` reports the reason
    return replace(stage, loop=loop)  # type: ignore[type-var]


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings of a stage with the current names of settings that were renamed."""
    tables = {
        name: {_RENAMED[name].get(key, key): value for key, value in values.items()}
        if name in _RENAMED and isinstance(values, Mapping)
        else values
        for name, values in settings.items()
    }
    return {_RENAMED[""].get(name, name): value for name, value in tables.items()}


def _first_difference(name: str, before: Any, now: Any) -> str:
    """The dotted name of the first setting that differs."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return name
    inner = next(key for key in {**now, **before} if before.get(key) != now.get(key))
    return _first_difference(f"{name}.{inner}", before.get(inner), now.get(inner))


def _with_defaults(before: dict[str, Any], stage: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, with the defaults of settings that did not exist when it started."""
    known = to_dict(stage)
    settings = {name: before[name] for name in known if name in before and name not in inputs}
    settings |= {name: known[name] for name in known if name in inputs}
    with suppress(ConfigError):
        settings = json.loads(json.dumps(to_dict(from_dict(type(stage), settings, ""))))
    return {**before, **settings, **{name: before.get(name) for name in inputs}}
