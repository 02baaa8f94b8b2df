"""Common options of all suites of `featherglue evaluate`."""

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

from featherglue.cli.common import STANDARD_OUTPUT, CsvFile, JsonFile, Model
from featherglue.cli.session_options import with_parameters, with_session_options
from featherglue.errors import UsageError
from featherglue.evaluation.openers import SessionOpener
from featherglue.machine import num_cores
from featherglue.options import SessionOptions

# Options that do not change the metrics.
_WITHOUT_EFFECT = (
    "jobs",
    "cache",
    "json_file",
    "csv_file",
    "num_examples",
    "num_worst",
    "worst_dir",
)


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """The parsed options."""

    model: Model = "fast"
    seed: Annotated[
        int,
        typer.Option(
            "--seed", min=0, metavar="N", help="Seed of MAGSAC++ and of all random draws."
        ),
    ] = 0
    num_pairs: Annotated[
        int | None,
        typer.Option(
            "--num-pairs", min=1, metavar="N", help="Number of pairs, from the start of the list."
        ),
    ] = None
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, metavar="N", help="Number of processes.")
    ] = 1
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="DIR", help="Store features and results; resumes a stopped run."
        ),
    ] = None
    json_file: JsonFile = None
    csv_file: CsvFile = None
    num_examples: Annotated[
        int,
        typer.Option(
            "--num-examples",
            min=0,
            metavar="N",
            help="Number of best and of worst pairs that a JSON file keeps pictures of.",
        ),
    ] = 2
    num_worst: Annotated[
        int, typer.Option("--num-worst", min=0, metavar="N", help="Number of worst pairs to draw.")
    ] = 0
    worst_dir: Annotated[
        Path | None,
        typer.Option(
            "--worst-dir",
            metavar="DIR",
            help="Folder of these pictures (featherglue_worst).",
        ),
    ] = None

    options: SessionOptions = dataclasses.field(default_factory=SessionOptions)

    def check(self) -> None:
        """Raise UsageError for options that exclude or need each other."""
        if self.json_file == self.csv_file == STANDARD_OUTPUT:
            raise UsageError("--json - and --csv - exclude each other: write one to a file")
        if self.worst_dir is not None and not self.num_worst:
            raise UsageError("--worst-dir has no effect without --num-worst: give a number")

    @property
    def writes_report_data(self) -> bool:
        """Whether a JSON file for a report is written, which holds pictures."""
        return self.json_file is not None and self.json_file != STANDARD_OUTPUT

    def session(self) -> SessionOpener:
        """The session to evaluate. Processes share the cores unless --threads is given."""
        options = self.options
        if options.threads is None and self.jobs > 1:
            options = dataclasses.replace(options, threads=max(1, num_cores() // self.jobs))
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
    """The command that reproduces the metrics, with all options that are not defaults."""
    words = ["featherglue", "evaluate", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if value is None or value == parameter.default or parameter.name in _WITHOUT_EFFECT:
            continue
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            parts = str(value).split(",") if parameter.name == "resize" else [str(value)]
            words += [parameter.opts[0], *parts]
    return shlex.join(words)
