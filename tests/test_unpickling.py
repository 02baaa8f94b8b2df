"""Files that may come from others are never unpickled and never run as code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("src", "benchmarks", "studies", "examples", "docs")
    for path in (REPOSITORY / folder).rglob("*.py")
    if "node_modules" not in path.parts
)
# Modules whose loaders run code. Worker processes exchange pickles with their own parent.
CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "pandas", "yaml"}
ALLOWED_IMPORTS = {("src/featherglue/collection/workers.py", "pickle")}
# The loaders that can unpickle, and the argument that makes them safe.
SAFE = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "read_array": ("allow_pickle", False),
}
PLACES = {
    "benchmarks/sfm.py": "np.load",
    "benchmarks/weak_pairs.py": "np.load",
    "src/featherglue/models/published.py": "torch.load",
    "src/featherglue/train/engine/checkpoint.py": "torch.load",
}


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def loaders(text: str) -> Iterator[tuple[str, ast.Call]]:
    """The calls of functions that can unpickle, by their name in `SAFE`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).replace("numpy.", "np.")
            for known in SAFE:
                if called == known or called.endswith(f".{known}"):
                    yield known, node


def unsafe(text: str) -> list[str]:
    """The calls that may unpickle or run what they read."""
    found = []
    for known, call in loaders(text):
        keyword, value = SAFE[known]
        given = {k.arg: k.value for k in call.keywords}.get(keyword)
        if not (isinstance(given, ast.Constant) and given.value is value):
            found.append(f"{known} without {keyword}={value}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec"):
            found.append(ast.unparse(node.func))
    return found


def test_loaders_do_not_unpickle() -> None:
    places = {}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert unsafe(text) == [], name(path)
        places |= {name(path): known for known, _ in loaders(text)}
    assert places == PLACES


def test_no_module_imports_a_loader_of_code() -> None:
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            found |= {(name(path), m) for m in modules if m.partition(".")[0] in CODE}
    assert found == ALLOWED_IMPORTS


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("torch.load(path)", ["torch.load without weights_only=True"]),
        ("torch.load(path, weights_only=safe)", ["torch.load without weights_only=True"]),
        ("numpy.load(path, allow_pickle=True)", ["np.load without allow_pickle=False"]),
        ("np.lib.format.read_array(f)", ["read_array without allow_pickle=False"]),
        ("eval(text)", ["eval"]),
        ("network.eval(); np.load(path, allow_pickle=False)", []),
    ],
)
def test_unsafe_calls_are_found(code: str, expected: list[str]) -> None:
    assert unsafe(code) == expected
