"""Which layers a step is about: names, with * and ? for what they have in common."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from featherglue.errors import ConfigError


def select(
    every: Sequence[str], usual: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> list[str]:
    """The chosen ones of `every`, in order.

    Args:
        include: globs; none for the `usual` ones. exclude: globs of what is taken out again.

    Raises:
        ConfigError: a glob that matches nothing, with the nearest names; nothing is left.
    """
    for glob in (*include, *exclude):
        if not any(fnmatchcase(name, glob) for name in every):
            near = difflib.get_close_matches(glob, every, 3, 0.3)
            raise ConfigError(f"no layer matches {glob!r}; the nearest: {', '.join(near)}")
    left = matching(every, include, exclude) if include else matching(usual, ("*",), exclude)
    if not left:
        raise ConfigError("include and exclude leave no layer")
    return left


def matching(names: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """The names that a glob of `include` matches and none of `exclude`, in order."""
    chosen = [name for name in names if any(fnmatchcase(name, glob) for glob in include)]
    return [name for name in chosen if not any(fnmatchcase(name, glob) for glob in exclude)]
