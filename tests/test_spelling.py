"""The text of the repository has American spelling."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "configs", "docs", "examples", "src", "studies", "tests", "web")
SUFFIXES = {".py", ".md", ".toml", ".ts", ".mjs", ".html", ".css", ".cpp"}
GENERATED = {"node_modules", "dist", "build", "public", "__pycache__"}
BRITISH = re.compile(
    r"gr[e]y|colo[u]r|neighbo[u]r|behavio[u]r|favo[u]r\b|cent[r]e|licen[c]e|label[l](?!edby)"
    r"|anticlockwis[e]|artefac[t]|toward[s]|afterward[s]|whils[t]|learn[t]\b|modell(?:ed|ing)\b"
    r"|(?:normal|optim|quant|initial|serial|summar|minim|maxim|organ|util|local)i[s]"
    r"(?:e|ed|es|er|ing|ation)\b",
    re.IGNORECASE,
)


def text_files() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in SUFFIXES and GENERATED.isdisjoint(path.parts):
                yield path
    yield from sorted(REPOSITORY.glob("*.md"))


@pytest.mark.slow
def test_spelling_is_american() -> None:
    found = []
    for path in text_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if word := BRITISH.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {word.group()}")
    assert found == []
