"""Selection of layers by globs."""

from __future__ import annotations

import pytest

from featherglue.compression.layer_selection import select_layers
from featherglue.errors import ConfigError

NAMES, DEFAULT = ["a.b", "a.c", "d.b"], ["a.b", "a.c"]


@pytest.mark.parametrize(
    ("include", "exclude", "selected"),
    [
        ((), (), DEFAULT),
        (("*.b",), (), ["a.b", "d.b"]),
        (("d.b", "a.?"), ("a.c",), ["a.b", "d.b"]),
        ((), ("a.b",), ["a.c"]),
    ],
)
def test_globs_select_names(
    include: tuple[str, ...], exclude: tuple[str, ...], selected: list[str]
) -> None:
    assert select_layers(NAMES, DEFAULT, include, exclude) == selected


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (("a.d",), (), r"'a\.d'; the closest names are a\.\w, a\.\w"),
        ((), ("x",), "no layer matches 'x'"),
        (("d.b",), ("d.*",), "select no layer"),
    ],
)
def test_globs_that_select_nothing_raise(
    include: tuple[str, ...], exclude: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        select_layers(NAMES, DEFAULT, include, exclude)
