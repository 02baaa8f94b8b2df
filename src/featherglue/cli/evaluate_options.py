"""The options that all suites of `featherglue evaluate` have."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import shlex
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from featherglue.cli.common import (
    Consensus,
    FeaturesOption,
    KeypointThreshold,
    MatcherOption,
    MatchThreshold,
    MaxKeypoints,
    Model,
    NmsRadius,
    NoRefine,
    Resize,
    RuntimeOption,
    SinkhornIterations,
    Threads,
    parse_resize,
)
from featherglue.evaluation.methods import SessionOptions
from featherglue.machine import cores
from featherglue.runtime.base import RuntimeName
from featherglue.session import FeaturesKind, MatcherKind

# Options that do not change the numbers.
_QUIET = {"jobs", "cache", "json_path", "csv_path", "worst", "worst_dir"}


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """What is evaluated, how it is run and where the results go, as the parser has it."""

    model: Model = "fast"
    runtime: RuntimeOption = "auto"
    threads: Threads = None
    features: FeaturesOption = "superpoint"
    matcher: MatcherOption = "superglue"
    resize: Resize = None
    max_keypoints: MaxKeypoints = None
    keypoint_threshold: KeypointThreshold = None
    nms_radius: NmsRadius = None
    sinkhorn_iterations: SinkhornIterations = None
    match_threshold: MatchThreshold = None
    consensus: Consensus = None
    no_refine: NoRefine = False
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

    def session(self) -> SessionOptions:
        """What is evaluated. Several jobs share the processors, unless threads are given."""
        threads = self.threads
        if threads is None and self.jobs > 1:
            threads = max(1, cores() // self.jobs)
        return SessionOptions(
            model=self.model,
            runtime=cast("RuntimeName", self.runtime),
            threads=threads,
            features=cast("FeaturesKind", self.features),
            matcher=cast("MatcherKind", self.matcher),
            resize=parse_resize(self.resize),
            max_keypoints=self.max_keypoints,
            keypoint_threshold=self.keypoint_threshold,
            nms_radius=self.nms_radius,
            sinkhorn_iterations=self.sinkhorn_iterations,
            match_threshold=self.match_threshold,
            consensus=self.consensus,
            refine=False if self.no_refine else None,
        )


def with_shared_options(command: Callable[..., int]) -> Callable[..., int]:
    """The command with the fields of `SharedOptions` as options, given to it as `shared`."""
    fields = dataclasses.fields(SharedOptions)
    hints = typing.get_type_hints(SharedOptions, include_extras=True)
    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [parameter for parameter in own if parameter.name != "shared"]
    parameters += [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields
    ]

    @functools.wraps(command)
    def parsed(**values: Any) -> int:
        shared = SharedOptions(**{field.name: values.pop(field.name) for field in fields})
        return command(**values, shared=shared)

    del parsed.__dict__["__wrapped__"]  # the parser must see the merged signature alone
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return parsed


def command_line(context: typer.Context) -> str:
    """The command that gives the same numbers again: every option that differs from its default."""
    words = ["featherglue", "evaluate", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if value is None or value == parameter.default or parameter.name in _QUIET:
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif value is True:
            words.append(parameter.opts[0])
        else:
            parts = str(value).split(",") if parameter.name == "resize" else [str(value)]
            words += [parameter.opts[0], *parts]
    return shlex.join(words)
