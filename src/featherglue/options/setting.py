"""The type of a definition of a setting, and the check of a value against it.

The settings themselves are defined in `options/__init__.py`.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from featherglue.errors import ConfigError

Stage = Literal["session", "extraction", "matching", "refinement"]
Kind = Literal["integer", "number", "boolean", "choice", "size"]
_MIN_SIDE, _MAX_SIDE = 8, 8192


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The definition of a setting.

    Attributes:
        kind: type of its value; "size" is a tuple of one or two integers.
        stage: the stage that uses it; "session" for all stages.
        help: one sentence, as the help text of its command-line option shows it.
        method: the only method of that stage that uses it, "superpoint" or "superglue"; None if
            all methods do.
        minimum, maximum: inclusive bounds of a number; None for no bound.
        choices: values of a choice.
        optional: whether None is a value, which disables what the setting controls.
    """

    kind: Kind
    stage: Stage
    help: str
    method: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False


def check_setting(name: str, value: Any, setting: Setting) -> Any:
    """The value of a setting, as its plain Python type.

    Args:
        name: name of the setting, for messages.
        value: any object.
        setting: definition of the setting.

    Raises:
        ConfigError: the wrong type, or out of bounds; the message names the setting.
    """
    if value is None and setting.optional:
        return None
    if setting.kind == "size":
        return _checked_size(name, value)
    if setting.kind == "choice":
        if not isinstance(value, str) or value not in setting.choices:
            raise ConfigError(
                f"{name} must be one of {', '.join(setting.choices)}, not {shown(value)}"
            )
        return value
    if setting.kind == "boolean":
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be True or False, not {shown(value)}")
        return value
    number = _checked_number(name, value, setting)
    low = -float("inf") if setting.minimum is None else setting.minimum
    high = float("inf") if setting.maximum is None else setting.maximum
    if not low <= number <= high:  # false for NaN, too
        bounds = f"at least {low:g}" if high == float("inf") else f"in [{low:g}, {high:g}]"
        raise ConfigError(f"{name} must be {bounds}, not {shown(value)}")
    if name == "max_keypoints" and number == 0:
        raise ConfigError("max_keypoints must be -1 (all) or at least 1, not 0")
    return number


def shown(value: Any, limit: int = 80) -> str:
    """The representation of a value in a message, shortened to `limit` characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python converts
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy, and no boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a real number of Python or NumPy, and no boolean."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _checked_number(name: str, value: Any, setting: Setting) -> float:
    if setting.kind == "integer" and is_integer(value):
        return operator.index(value)
    if setting.kind == "number" and is_number(value):
        try:
            return float(value)
        except OverflowError:  # an integer beyond the floats
            return float("inf") if value > 0 else -float("inf")
    what = "an integer" if setting.kind == "integer" else "a number"
    what += " or None" if setting.optional else ""
    raise ConfigError(f"{name} must be {what}, not {shown(value)}")


def _checked_size(name: str, value: Any) -> tuple[int, ...]:
    values = (value,) if is_integer(value) else value
    sequence = isinstance(values, Sequence) and not isinstance(values, (str, bytes))
    if sequence and all(map(is_integer, values)):
        size = tuple(operator.index(side) for side in values)
        within = all(_MIN_SIDE <= side <= _MAX_SIDE for side in size)
        if size in ((), (-1,)) or (len(size) <= 2 and within):
            return size
    given = values[0] if sequence and len(values) == 1 else value
    raise ConfigError(
        f"{name} must be -1 (the size of the image), one longest side, or width and height, each "
        f"in [{_MIN_SIDE}, {_MAX_SIDE}], not {shown(given)}"
    )
