"""Pipelines that `evaluate` accepts: names of models, sessions, openers and others."""

from __future__ import annotations

import os
from typing import Any, Protocol, TypeAlias, cast

from featherglue.errors import UsageError
from featherglue.evaluation.suites import Pipeline
from featherglue.machine import num_cores
from featherglue.options import SessionOptions, make_options
from featherglue.session import Session, load


class Opener(Protocol):
    """Opens a pipeline. It can be pickled, so that every process opens its own."""

    def open(self) -> Pipeline:
        """Open the pipeline."""
        ...


Evaluable: TypeAlias = "str | os.PathLike[str] | Pipeline | Opener"


class SessionOpener:
    """Opens a session; takes the arguments of `featherglue.load`.

    Args:
        model: name of a shipped model, or the folder of an artifact.
        options: see `SessionOptions`.
        **overrides: fields of `SessionOptions`, which replace those of `options`.

    Raises:
        UsageError: an unknown option, or a value out of bounds.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "fast",
        options: SessionOptions | None = None,
        **overrides: Any,
    ) -> None:
        self.model = os.fspath(model)
        self.options = make_options(options, **overrides)

    def open(self) -> Session:
        """Open the session. See `featherglue.load` for the errors."""
        return load(self.model, self.options)


def make_opener(evaluable: Evaluable, jobs: int) -> Pipeline | Opener:
    """The argument itself, or an opener for the name of a model.

    Args:
        evaluable: argument `pipeline` of `evaluate`.
        jobs: number of processes; they share the processors.

    Raises:
        UsageError: an object that is neither a pipeline nor an opener.
    """
    if isinstance(evaluable, (str, os.PathLike)):
        return SessionOpener(evaluable, threads=None if jobs == 1 else max(1, num_cores() // jobs))
    if not (is_pipeline(evaluable) or hasattr(evaluable, "open")):
        raise UsageError(
            f"{type(evaluable).__name__} cannot be evaluated: pass the name of a model, a "
            "Session, a SessionOpener, or an object with extract and match"
        )
    return evaluable


def is_pipeline(value: Any) -> bool:
    """Whether a value has the methods of `Pipeline`."""
    return hasattr(value, "extract") and hasattr(value, "match")


def open_pipeline(evaluable: Pipeline | Opener) -> Pipeline:
    """The pipeline itself, or the one that the opener opens."""
    if is_pipeline(evaluable):
        return cast("Pipeline", evaluable)
    return cast("Opener", evaluable).open()


def describe(pipeline: Pipeline) -> dict[str, Any]:
    """Description of a pipeline as plain values, with at least a `name`.

    The description of a session holds its methods, settings and weights. That of another pipeline
    is its attribute `description`, or the name of its class.

    Raises:
        UsageError: `description` is not a mapping.
    """
    if isinstance(pipeline, Session):
        return pipeline.describe()
    kind = type(pipeline).__qualname__
    description = getattr(pipeline, "description", {"name": kind})
    if not isinstance(description, dict):
        raise UsageError(f"the description of {kind} must be a mapping of plain values")
    return {"name": kind} | description


def is_identifiable(pipeline: Pipeline) -> bool:
    """Whether the description identifies the pipeline, so that its results can be stored."""
    return isinstance(pipeline, Session) or hasattr(pipeline, "description")
