"""The command-line options of a session, generated from `featherglue.options`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from featherglue.cli.common import limit_threads
from featherglue.errors import UsageError
from featherglue.options import SessionOptions, settings
from featherglue.options.setting import Setting

NOT_OFFERED = ("high_keypoint_threshold", "high_threshold_after", "working_size")
"""Settings that only models choose."""
_PLURALS = {"tile": "--tiles"}  # flags that do not have the name of their setting
_OFF = "off"
_PANELS = {
    "session": "Session",
    "extraction": "Extraction",
    "matching": "Matching",
    "refinement": "Matching",
}
_NUMBERS: dict[str, tuple[type, str]] = {"integer": (int, "INT"), "number": (float, "FLOAT")}


def with_session_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add an option for every setting of a session to a command.

    The command takes them as one keyword argument, `options: SessionOptions`. The number of
    threads also applies to OpenCV.
    """
    return _with_options(command, NOT_OFFERED)


def session_options_without(*names: str) -> Callable[..., Callable[..., int]]:
    """As `with_session_options`, without the options of some settings."""
    return functools.partial(_with_options, left_out=(*NOT_OFFERED, *names))


def _with_options(command: Callable[..., int], left_out: tuple[str, ...]) -> Callable[..., int]:
    offered = {name: s for name, s in settings().items() if name not in left_out}

    def collect(values: dict[str, Any]) -> SessionOptions:
        given = {name: values.pop(name) for name in offered}
        return _to_options({name: value for name, value in given.items() if value is not None})

    parameters = [_parameter(name, setting) for name, setting in offered.items()]
    return with_parameters(command, "options", parameters, collect)


def with_parameters(
    command: Callable[..., int],
    keyword: str,
    parameters: list[inspect.Parameter],
    collect: Callable[[dict[str, Any]], Any],
) -> Callable[..., int]:
    """A command whose keyword argument is collected from several options.

    Args:
        command: takes `keyword` as a keyword argument.
        keyword: its name.
        parameters: the options that stand for it.
        collect: takes these options out of the parsed values and returns the argument.
    """
    own = inspect.signature(command, eval_str=True).parameters.values()
    merged = [p for p in own if p.name != keyword] + parameters

    @functools.wraps(command)
    def parsed(**values: Any) -> int:
        argument = collect(values)
        return command(**values, **{keyword: argument})

    del parsed.__dict__["__wrapped__"]  # the parser must see the merged signature
    parsed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in merged]
    )
    parsed.__annotations__ = {p.name: p.annotation for p in merged}
    return parsed


def _parameter(name: str, setting: Setting) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    more: dict[str, Any] = {"help": setting.help, "rich_help_panel": _PANELS[setting.stage]}
    annotation: Any = str
    if setting.kind == "choice":
        annotation, more["metavar"] = Literal[setting.choices], "|".join(setting.choices)
    elif setting.kind == "size":
        more["metavar"] = "W H|MAX|-1"
    elif setting.kind == "boolean":
        flag = _PLURALS.get(name, flag)
        annotation, flag = bool, f"{flag}/{flag.replace('--', '--no-', 1)}"
    elif setting.kind == "number" and setting.optional:
        more["metavar"] = f"FLOAT|{_OFF}"
        more["help"] = more["help"].replace("None", _OFF)
    else:  # the library checks the bounds
        annotation, more["metavar"] = _NUMBERS[setting.kind]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation | None, typer.Option(flag, **more)],
    )


def _to_options(given: dict[str, Any]) -> SessionOptions:
    if "resize" in given:
        given["resize"] = parse_resize(given["resize"])
    for name, value in given.items():
        setting = settings()[name]
        if setting.kind == "number" and isinstance(value, str):
            given[name] = _parse_optional(name, value)
    options = SessionOptions(**given)
    limit_threads(options.threads)
    return options


def _parse_optional(name: str, text: str) -> float | None:
    if text == _OFF:
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} must be a number or {_OFF!r}, not {text!r}") from None


def parse_resize(text: str) -> tuple[int, ...]:
    """The value of --resize: "640,480", "640x480", "1024" or "-1"."""
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise UsageError(f"resize must be W H, one longest side, or -1, not {text!r}") from None
