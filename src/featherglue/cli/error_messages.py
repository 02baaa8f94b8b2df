"""Messages of errors on the command line, in the words of the command line."""

from __future__ import annotations

import os
from typing import Any

from featherglue.cli.parameter_names import called_command, option_flags, with_flags
from featherglue.machine import exhausted_resource

# Texts of the parser about a wrong value, and plain words for them.
_PLAIN_WORDS = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "not an integer",
    "Input should be a valid number, unable to parse string as a number": "not a number",
    "Input should be greater than or equal to": "must be at least",
    "Input should be less than or equal to": "must be at most",
}


def parser_message(error: Any, command: Any | None, arguments: list[str]) -> str:
    """The message of an error of the parser, and the values of an option that lacks its value.

    Args:
        error: an exception of click.
        command: click command or group of the command line; None if it could not be built.
        arguments: words of the command line.
    """
    message = str(error.format_message())
    for parser_text, plain in _PLAIN_WORDS.items():
        message = message.replace(parser_text, plain)
    if command is not None and message.endswith("requires an argument."):
        for parameter in called_command(command, arguments).params:
            if error.option_name in parameter.opts and parameter.metavar:
                return f"{message.rstrip('.')}: {error.option_name} {parameter.metavar}"
    return message


def machine_fault(error: Exception) -> str:
    """The reason of an error that files, memory or permissions cause; "" for other errors."""
    lack = exhausted_resource(error)
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{name}{lack or error.strerror}"
    return lack


def with_option_flags(message: str, command: Any | None, arguments: list[str]) -> str:
    """The message of a library error with flags in place of parameter names.

    Args:
        message: the message.
        command: click command or group of the command line; None leaves the message unchanged.
        arguments: words of the command line.
    """
    return message if command is None else with_flags(message, option_flags(command, arguments))
