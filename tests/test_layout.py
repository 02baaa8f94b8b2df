"""The layout of the package: small modules, short functions, one name for one thing."""

from __future__ import annotations

import ast
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import featherglue

ROOT = Path(featherglue.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
MAX_LINES, MAX_FUNCTION, MAX_REPEATED = 400, 80, 10
# The PyTorch implementation of a module may share its name.
TWINS = {
    frozenset({"matching/nms", "models/nms"}),
    frozenset({"matching/keypoints", "models/keypoints"}),
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_the_root_is_small() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 12


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    for function in functions(ast.parse(text)):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= MAX_FUNCTION, f"{function.name} has {length} lines"


def test_every_module_and_public_name_is_described() -> None:
    missing = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree) and path.name != "__main__.py":
            missing.append(name(path))
        for node in tree.body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
            if public and not ast.get_docstring(node):
                missing.append(f"{name(path)}.{node.name}")
    assert missing == []


def test_no_two_modules_share_a_name() -> None:
    """A name leads to one file; commands are named after what they call."""
    named = defaultdict(set)
    for path in MODULES:
        if path.stem not in ("__init__", "__main__") and name(path).split("/")[0] != "cli":
            named[path.stem].add(name(path))
    shared = {frozenset(paths) for paths in named.values() if len(paths) > 1}
    assert shared - TWINS == set()


def test_no_module_repeats_another() -> None:
    """Ten lines in a row, without imports, docstrings and blank lines, are written once."""
    seen: dict[tuple[str, ...], str] = {}
    repeated = []
    for path in MODULES:
        lines = code_lines(path)
        for window in zip(*(lines[i:] for i in range(MAX_REPEATED)), strict=False):
            first = seen.setdefault(window, name(path))
            if first != name(path):
                repeated.append(f"{first} and {name(path)}: {window[0]}")
    assert repeated == []


def code_lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out.update(range(node.lineno, (node.end_lineno or 0) + 1))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                left_out.update(range(first.lineno, (first.end_lineno or 0) + 1))
    numbered = zip(itertools.count(1), text.splitlines(), strict=False)
    return [line.strip() for i, line in numbered if i not in left_out and line.strip()]


def unlimited_waits(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that wait for a process, a thread or a queue without a limit of time."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called, owner = node.func.attr, ast.unparse(node.func.value)
        waits = (
            (owner == "subprocess" and called in ("run", "call", "check_call", "check_output"))
            or called == "communicate"
            or (called in ("wait", "join", "get") and not node.args)
        )
        if waits and not {keyword.arg for keyword in node.keywords} & {"timeout", None}:
            yield node


@pytest.mark.parametrize("text", ["subprocess.run(a)", "a.wait()", "b.join()", "c.communicate(d)"])
def test_a_wait_without_a_limit_is_found(text: str) -> None:
    assert len(list(unlimited_waits(ast.parse(text)))) == 1
    limited = (
        text.replace("()", "(a)").replace("(a)", "(a, timeout=1)").replace("(d)", "(timeout=1)")
    )
    assert list(unlimited_waits(ast.parse(limited))) == []


def test_no_test_waits_without_a_limit() -> None:
    folder = Path(__file__).parent
    found = [
        f"{path.relative_to(folder)}:{node.lineno}"
        for path in sorted(folder.rglob("*.py"))
        for node in unlimited_waits(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []
