"""The options that all suites of `featherglue evaluate` have."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from featherglue.cli.common import Model
from featherglue.cli.session_options import with_parameters, with_session_options
from featherglue.evaluation.openers import SessionOpener
from featherglue.machine import cores
from featherglue.options import SessionOptions

# Options that do not change the numbers.
_QUIET = {"jobs", "cache", "json_path", "csv_path", "worst", "worst_dir"}


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """What is evaluated, how it is run and where the results go, as the parser has it."""

    model: Model = "fast"
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of MAGSAC++ and of everything that is drawn.")
    ] = 0
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Evaluate the first pairs only.")
    ] = None
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes.")] = 1
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder for features and results; a stopped run goes on."),
    ] = None
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the results as JSON.")
    ] = None
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="OUT", help="Write a line for each pair.")
    ] = None
    worst: Annotated[
        int, typer.Option("--worst", min=0, help="Draw so many of the worst pairs.")
    ] = 0
    worst_dir: Annotated[Path, typer.Option("--worst-dir", help="Folder for these pictures.")] = (
        Path("featherglue_worst")
    )

    options: SessionOptions = dataclasses.field(default_factory=SessionOptions)

    def session(self) -> SessionOpener:
        """The session to evaluate. Several jobs share the processors, unless threads are given."""
        options = self.options
        if options.threads is None and self.jobs > 1:
            options = dataclasses.replace(options, threads=max(1, cores() // self.jobs))
        return SessionOpener(model=self.model, options=options)


def with_shared_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the fields of `SharedOptions` to a command, which takes them as `shared`."""
    fields = [f for f in dataclasses.fields(SharedOptions) if f.name != "options"]
    hints = typing.get_type_hints(SharedOptions, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields
    ]
    parameters.append(inspect.Parameter("options", inspect.Parameter.KEYWORD_ONLY))

    def collect(values: dict[str, Any]) -> SharedOptions:
        shared = {field.name: values.pop(field.name) for field in fields}
        return SharedOptions(**shared, options=values.pop("options"))

    return with_session_options(with_parameters(command, "shared", parameters, collect))


def command_line(context: typer.Context) -> str:
    """The command that gives the same numbers again: every option that differs from its default."""
    words = ["featherglue", "evaluate", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if value is None or value == parameter.default or parameter.name in _QUIET:
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            parts = str(value).split(",") if parameter.name == "resize" else [str(value)]
            words += [parameter.opts[0], *parts]
    return shlex.join(words)
