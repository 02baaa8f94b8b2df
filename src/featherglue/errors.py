"""The exceptions that featherglue raises on purpose.

Everything derives from `FeatherglueError`; its message names what is wrong and the mend.
The command line prints the message and leaves with `exit_code`.
"""

from __future__ import annotations


class FeatherglueError(Exception):
    """Base of every error that featherglue raises on purpose."""

    exit_code = 1


class UsageError(FeatherglueError, ValueError):
    """An argument or option is wrong: a shape, a range, an unknown name."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration has an unknown key, a missing key or a value out of range."""


class ImageError(FeatherglueError):
    """An image cannot be read or is not an image that we can use."""


class PairListError(FeatherglueError):
    """A list of image pairs is malformed; the message names file and line."""

    exit_code = 2


class ArtifactError(FeatherglueError):
    """A model folder is missing, damaged, foreign, or written by a newer version."""


class RuntimeUnavailableError(FeatherglueError):
    """A runtime is not installed, or cannot run this model."""


class EstimationError(FeatherglueError):
    """A geometric model cannot be estimated from these matches."""


class OutputError(FeatherglueError):
    """A result cannot be written where the user asked."""


class TrainingError(FeatherglueError):
    """Training cannot start or go on; the last good state is kept."""


class MissingExtraError(FeatherglueError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part: pip install 'featherglue[{extra}]'")
