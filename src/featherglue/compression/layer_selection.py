"""Selection of layers by name, with the wildcards * and ?."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from featherglue.errors import ConfigError


def select_layers(
    names: Sequence[str], default: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> list[str]:
    """Return the selected names, in the order of `names`.

    Args:
        names: all names that can be selected.
        default: names that are selected if `include` is empty.
        include: globs of names to select.
        exclude: globs of names to leave out.

    Raises:
        ConfigError: a glob matches no name, or no name is selected.
    """
    for glob in (*include, *exclude):
        if not any(fnmatchcase(name, glob) for name in names):
            nearest = difflib.get_close_matches(glob, names, 3, 0.3)
            raise ConfigError(
                f"no layer matches {glob!r}; the closest names are {', '.join(nearest)}"
            )
    if include:
        selected = match_globs(names, include, exclude)
    else:
        selected = match_globs(default, ("*",), exclude)
    if not selected:
        raise ConfigError("include and exclude select no layer")
    return selected


def match_globs(names: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Return the names that match a glob of `include` and no glob of `exclude`, in order."""
    chosen = [name for name in names if any(fnmatchcase(name, glob) for glob in include)]
    return [name for name in chosen if not any(fnmatchcase(name, glob) for glob in exclude)]
