"""The common grammar of all commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from featherglue import cli

# Options of the field whose value is a count, though their name does not start with --num-.
COUNTS = {
    "--max-keypoints",
    "--sinkhorn-iterations",
    "--nms-radius",
    "--remove-borders",
    "--threads",
    "--seed",
    "--skip",
    "--max-frames",
    "--min-track-length",
    "--bits",
    "--activation-bits",
    "--steps",
    "--repetitions",
    "--warmup",
    "--jobs",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and sub-command with its name."""
    group = typer.main.get_command(cli._application(cli._COMMANDS))
    for name, command in group.commands.items():
        nested = getattr(command, "commands", None)
        if nested is None:
            yield name, command
        else:
            for child_name, child in nested.items():
                yield f"{name} {child_name}", child


COMMANDS = dict(commands())


def options(command: Any) -> dict[str, Any]:
    """The options of a command by their long flag, without --help."""
    return {
        flag: parameter
        for parameter in command.params
        if parameter.param_type_name == "option"
        for flag in parameter.opts
        if flag.startswith("--") and flag != "--help"
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_has_a_sentence_as_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.help.rstrip().endswith(".")
    wrong = [
        parameter.name
        for parameter in command.params
        if parameter.name != "help" and not re.fullmatch(r".+\.", parameter.help or "", re.DOTALL)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_model_is_an_option(name: str) -> None:
    arguments = [p.name for p in COMMANDS[name].params if p.param_type_name == "argument"]
    assert "model" not in arguments
    for flag, option in options(COMMANDS[name]).items():
        if option.name in ("model", "models"):
            assert flag == "--model"


@pytest.mark.parametrize("name", COMMANDS)
def test_json_takes_a_file(name: str) -> None:
    option = options(COMMANDS[name]).get("--json")
    assert option is not None
    assert not option.is_flag
    assert option.metavar == "FILE|-"


@pytest.mark.parametrize("name", COMMANDS)
def test_counts_are_named_num(name: str) -> None:
    counts = {
        flag
        for flag, option in options(COMMANDS[name]).items()
        if option.type_descriptor.annotation is int and option.nargs == 1
    }
    assert {flag for flag in counts - COUNTS if not flag.startswith("--num-")} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_images_are_a_path(name: str) -> None:
    option = options(COMMANDS[name]).get("--images")
    assert option is None or option.type_descriptor.annotation is not int
