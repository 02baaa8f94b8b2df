"""The sessions that a benchmark compares."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from featherglue.options import MODEL, SessionOptions
from featherglue.session import Session, load


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One session that is measured.

    Attributes:
        label: name in tables.
        model: name of a shipped model, or the folder of an artifact.
        options: options of the session.
    """

    label: str
    model: str = "fast"
    options: SessionOptions = field(default_factory=SessionOptions)

    def open(self) -> Session:
        """Open the session, without a search unless the options ask for it.

        See `featherglue.load` for the errors.
        """
        options = self.options
        if options.search is MODEL:  # frames of a video are not searched
            options = dataclasses.replace(options, search="off")
        return load(self.model, options)

    def to_json(self) -> str:
        """The contender as JSON, for another process."""
        fields = dataclasses.fields(SessionOptions)
        options = {field.name: getattr(self.options, field.name) for field in fields}
        given = {name: value for name, value in options.items() if value is not MODEL}
        return json.dumps({"label": self.label, "model": self.model, "options": given})

    @classmethod
    def from_json(cls, text: str) -> Contender:
        """The contender that `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"options": SessionOptions(**values["options"])})
