"""Translation of parameter names in library messages to command-line flags.

Recognized are a name in backquotes (`resize`), a name with a value (`resize=1600`, matcher='nn'),
a name with an underscore (max_keypoints), and a name before "must" at the start of a message.
The names and flags are those of the options of the called command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_QUOTED = re.compile(r"`([a-z]\w*)(?:=([^`]*))?`")
_PLAIN = re.compile(
    r"(?<![\w./\\'\"`[=-])([a-z]\w*)"  # not within a path, a string or a dotted name
    r"(?:=('[^']*'|\"[^\"]*\"|\([^)]*\)|[\w.-]*\w)|(?![\w/\\'\"`\](=-]|\.\w))"
)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """An option's spelling.

    Attributes:
        on: long form, such as "--max-keypoints" or "--refine".
        off: form that switches the option off, such as "--no-refine"; None without one.
    """

    on: str
    off: str | None = None


def option_flags(command: Any, arguments: Sequence[str]) -> dict[str, Flag]:
    """The flags of the command that `arguments` call, by parameter name.

    Args:
        command: click command or group; sub-commands are followed.
        arguments: words of the command line.
    """
    flags: dict[str, Flag] = {}
    for parameter in called_command(command, arguments).params:
        on = _long(parameter.opts)
        if on is None:
            continue
        flag = Flag(on=on, off=_long(parameter.secondary_opts))
        flags.setdefault(on.removeprefix("--").replace("-", "_"), flag)
        if parameter.name:
            flags[parameter.name] = flag
    return flags


def called_command(command: Any, arguments: Sequence[str]) -> Any:
    """The command or sub-command of a click group that the words of a command line call."""
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    return command


def with_flags(message: str, flags: Mapping[str, Flag]) -> str:
    """The message with flags in place of known parameter names; other text is unchanged."""

    def quoted(found: re.Match[str]) -> str:
        flag = flags.get(found[1])
        return found[0] if flag is None else _assigned(flag, found[2])

    def plain(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        first = found.start() == 0 and message.startswith(f"{name} must ")
        return quoted(found) if value is not None or "_" in name or first else found[0]

    return _QUOTED.sub(quoted, _PLAIN.sub(plain, message))


def _assigned(flag: Flag, value: str | None) -> str:
    """`name=value` in shell syntax."""
    if value is None or value in ("True", "…"):
        return flag.on
    if value in ("False", "None") and flag.off is not None:
        return flag.off
    words = value.strip("()[]").replace(",", " ").split()
    return " ".join((flag.on, *(word.strip("'\"") for word in words)))


def _long(spellings: Sequence[str]) -> str | None:
    return next((name for name in spellings if name.startswith("--")), None)
