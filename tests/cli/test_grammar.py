"""The common grammar of all commands."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

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
    "--workers",
    "--max-size",
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


# Parameters whose values are a few fixed words.
ENUMERATIONS = {
    "descriptor_sampling",
    "device",
    "features",
    "importance",
    "matcher",
    "method",
    "metric",
    "part",
    "per",
    "runtime",
    "scheme",
    "scope",
    "search",
    "stage",
}


def choices(annotation: Any) -> list[str] | None:
    """The values of a Literal or an Enum, alone or in a list; None for another type."""
    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [member.value for member in annotation]
    return None


@pytest.mark.parametrize("name", COMMANDS)
def test_enumerations_are_choices(name: str) -> None:
    """The parser knows the values, so that it checks them, lists them and completes them."""
    listed = re.compile(r"[a-z]\w*(\|[a-z]\w*)+")  # a metavar such as "auto|torch"
    for parameter in COMMANDS[name].params:
        metavar = parameter.metavar or ""
        values = choices(parameter.type_descriptor.annotation)
        if metavar == "NAME|DIR":  # `combine --matcher` takes a model
            continue
        if parameter.name in ENUMERATIONS or listed.fullmatch(metavar):
            assert values, parameter.name
        if values and listed.fullmatch(metavar):
            assert metavar.split("|") == values


@pytest.mark.parametrize("name", COMMANDS)
def test_images_are_a_path(name: str) -> None:
    option = options(COMMANDS[name]).get("--images")
    assert option is None or option.type_descriptor.annotation is not int
