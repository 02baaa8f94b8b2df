"""The exceptions of featherglue.

Every exception that featherglue raises deliberately derives from `FeatherglueError`. Its message
names the fault and the fix. Messages write the name of a parameter in backquotes and never name a
command-line flag; the command line replaces parameter names by its flags.

`exit_code` is the exit status of the command line: 2 where the request is wrong (an argument, a
configuration, a list of pairs), 1 where a correct request cannot be carried out.
"""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remark ` (did you mean 'fast'?)` about an unknown name; "" if no known one is close."""
    from difflib import get_close_matches  # needed for errors only

    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def short_reason(error: Exception) -> str:
    """The start of a library's message: some quote the content of a damaged file, or a stack."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun, such as "1 pair" or "3 pairs".

    Args:
        number: how many.
        singular: the noun for one.
        plural: the noun for others; by default with an s.
    """
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


class FeatherglueError(Exception):
    """Base class of all exceptions that featherglue raises deliberately."""

    exit_code = 1


# --- the request is wrong -------------------------------------------------------------------


class UsageError(FeatherglueError, ValueError):
    """An argument is invalid: its shape, its range or an unknown name."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration has an unknown key, lacks a key, or has a value out of range."""


class PairListError(FeatherglueError):
    """A list of image pairs is malformed; the message names the file and the line."""

    exit_code = 2


# --- the input cannot be used ---------------------------------------------------------------


class ImageError(FeatherglueError):
    """An image cannot be read, or has an unsupported shape, type or size."""


class ImageWarning(UserWarning):
    """An image is used in a way that its owner may not expect, such as its first page only."""


class KeypointsWarning(UserWarning):
    """A matcher is given so many keypoints that it needs a lot of memory and time."""


class KernelsWarning(UserWarning):
    """The compiled kernels cannot be used; ONNX Runtime and NumPy do their work, more slowly."""


class StoredFileError(FeatherglueError):
    """A file that featherglue wrote is missing or damaged. It counts as absent where it can."""


class StoredFileWarning(UserWarning):
    """A damaged file counts as absent: its content is computed again."""


class SourceError(FeatherglueError):
    """A camera, video, stream or folder cannot be opened or delivers no frame."""


class ArtifactError(FeatherglueError):
    """A model folder is missing, damaged, not a model, or written by a newer version."""


class StoreError(FeatherglueError):
    """A feature or match file is missing, cannot be read, or lacks an image or a pair."""


class ReportError(FeatherglueError):
    """An evaluation result cannot be read or cannot be compared with the others."""


# --- the work cannot be done ----------------------------------------------------------------


class EstimationError(FeatherglueError):
    """A geometric model cannot be estimated from the given matches."""


class OutputError(FeatherglueError):
    """A result cannot be written to the given path."""


class TrainingError(FeatherglueError):
    """Training cannot start or continue; the last checkpoint is intact."""


class ResourceError(FeatherglueError):
    """The machine lacks memory, open files, threads or processes for the work."""


# --- the installation lacks something -------------------------------------------------------


class RuntimeUnavailableError(FeatherglueError):
    """A runtime is not installed or cannot run the model."""


class MissingExtraError(FeatherglueError):
    """A feature needs an optional dependency that is not installed.

    Args:
        what: the feature.
        extra: name of the extra that installs the dependency, such as "train".
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'featherglue[{extra}]'")
        self._arguments = (what, extra)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), self._arguments  # an error of a worker process is pickled


class MissingNameError(MissingExtraError, AttributeError):
    """A public name needs an optional dependency that is not installed.

    An `AttributeError` too, so that `hasattr` returns False.
    """


# Faults of the machine or the installation. They end a run over many inputs: they say nothing
# about the input at hand.
ENVIRONMENT_FAULTS = (OutputError, ResourceError, RuntimeUnavailableError, MissingExtraError)
