"""What is evaluated: how it is opened in each process, and how it is described."""

from __future__ import annotations

import os
from typing import Any, Protocol, TypeAlias, cast

from featherglue.errors import UsageError
from featherglue.evaluation.suites import Pipeline
from featherglue.options import SessionOptions
from featherglue.session import Session, load, make_options


class Opener(Protocol):
    """Opens something to evaluate; can be sent to other processes."""

    def open(self) -> Pipeline: ...


Evaluable: TypeAlias = "Pipeline | Opener"


class SessionOpener:
    """The arguments of `featherglue.load`, to open the same session in several processes."""

    def __init__(
        self,
        model: str | os.PathLike[str] = "fast",
        options: SessionOptions | None = None,
        **overrides: Any,
    ) -> None:
        self.model = os.fspath(model)
        self.options = make_options(options, **overrides)

    def open(self) -> Session:
        """The session. See `featherglue.load` for the errors."""
        return load(self.model, self.options)


def open_pipeline(evaluated: Evaluable) -> Pipeline:
    """The object itself, or what an opener opens."""
    if hasattr(evaluated, "extract") and hasattr(evaluated, "match"):
        return cast("Pipeline", evaluated)
    if not hasattr(evaluated, "open"):
        raise UsageError("an object with extract and match is needed, or one with open")
    return evaluated.open()


def describe(matching: Pipeline) -> dict[str, Any]:
    """What it is, as plain values, with at least a `name`.

    Sessions are described by their methods, settings and weights; others by their attribute
    `description`, or by the name of their class.
    """
    if isinstance(matching, Session):
        return matching.describe()
    kind = type(matching).__qualname__
    description = getattr(matching, "description", {"name": kind})
    if not isinstance(description, dict):
        raise UsageError(f"the description of {kind} must be a mapping of plain values")
    return {"name": kind} | description


def is_identifiable(matching: Pipeline) -> bool:
    """Whether its description tells it from others, so that its results can be kept."""
    return isinstance(matching, Session) or hasattr(matching, "description")
