"""The reference page of the command line, generated from the Typer application."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import typer
from page_text import code, table

from featherglue import cli
from featherglue.options import settings

_VALUES = {int: "INT", float: "FLOAT", Path: "PATH"}


def command_line() -> Any:
    """The click group of all commands."""
    return typer.main.get_command(cli._application(cli._COMMANDS))


def command_line_page() -> str:
    """The page as Markdown."""
    group = command_line()
    commands = dict(_commands(group, ()))
    parts = [
        "# Command line",
        "",
        "`featherglue COMMAND --help` prints the same text in a terminal. Sizes are width and "
        "height, separated by a space. The exit code is 0 after success, 1 after a failure, 2 "
        "after a wrong request and 130 after an interruption. The environment variable "
        "`FEATHERGLUE_DEBUG=1` shows tracebacks.",
        "",
        table(
            ["command", "purpose"],
            (
                [f"[`featherglue {name}`](#featherglue-{name.replace(' ', '-')})", _short(command)]
                for name, command in commands.items()
            ),
        ),
    ]
    for name, command in commands.items():
        parts += [_command(name, command), ""]
    return "\n".join(parts)


def _commands(group: Any, path: tuple[str, ...]) -> Any:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    own = [p for p in options if p.name not in settings() or p.rich_help_panel is None]
    takes_settings = len(own) < len(options)
    usage = " ".join(
        ["featherglue", name, *(_metavar(p) for p in arguments), "[OPTIONS]" if options else ""]
    )
    parts = [f"## featherglue {name}", "", f"```text\n{usage.strip()}\n```", ""]
    parts += [" ".join(text.split()) + "\n" for text in (command.help or "").split("\n\n")]
    if arguments:
        parts.append(table(["argument", "meaning"], (_row(p, _metavar(p)) for p in arguments)))
    if own:
        parts.append(table(["option", "meaning", "default"], map(_option_row, own)))
    if takes_settings:
        parts.append("This command also takes the [settings of a session](settings.md).\n")
    return "\n".join(parts)


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name = name.strip("{}[].") + ("…" if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any, shown: str) -> list[str]:
    return [code(shown), _escape(parameter.help or "")]


def _option_row(option: Any) -> list[str]:
    flags = ", ".join(code(flag) for flag in (*option.opts, *option.secondary_opts))
    value = _value(option)
    shown = f"{flags} {code(value)}" if value else flags
    default = option.default
    if option.required:
        default_text = "required"
    elif default is None or callable(default) or default in (False, (), [], ""):
        default_text = ""
    elif default is True:
        default_text = code(option.opts[-1])
    else:
        default_text = code(" ".join(map(str, default)) if _is_list(default) else default)
    return [shown, _escape(option.help or ""), default_text]


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    if option.metavar:
        return str(option.metavar)
    annotation = option.type_descriptor.annotation
    choices = get_args(annotation)
    if choices:
        return "|".join(map(str, choices))
    return _VALUES.get(annotation, "TEXT")


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _short(command: Any) -> str:
    return _escape(" ".join((command.help or "").split("\n\n")[0].split()))


def _escape(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")
