"""The code blocks of README and documentation pages work.

Python blocks of a page run one after the other in one namespace. Shell commands run if they are
cheap and all their files exist; all other commands are parsed, so that every command and option
exists. A block of any other language must be listed in `PLAIN`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from skimage import data

from featherglue import cli
from featherglue.compression.recipe import Recipe
from featherglue.io.toml import read_toml

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
)
PLAIN = ("text", "toml")
# Pages whose Python blocks need PyTorch, or take more than two seconds.
SLOW = (
    "README.md",
    "docs/tutorial/evaluate.md",
    "docs/tutorial/compress.md",
    "docs/how-to/benchmark.md",
    "docs/how-to/own-matcher.md",
    "docs/how-to/reconstruct.md",
    "docs/how-to/sfm-tools.md",
    "docs/tutorial/video.md",
)
# Commands that run if their files exist.
CHEAP = ("match", "video", "info", "export", "report", "quantize", "prune", "evaluate", "benchmark")
# Width and height of the images.
SIZE = (256, 192)


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text[: found.start()].count("\n") + 1
        yield Block(page, line, found[1], found[2])


def of_language(language: str) -> list[str]:
    return [page for page in PAGES if any(b.language == language for b in blocks(page))]


def views(count: int) -> Iterator[np.ndarray]:
    """Overlapping gray views (H, W) uint8 of a photograph."""
    gray = cv2.resize(cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY), (320, 320))
    for i in range(count):
        yield gray[60 : 60 + SIZE[1], 10 + 6 * i : 10 + 6 * i + SIZE[0]]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages take for granted."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("frames", "photos"):
        (folder / name).mkdir()
    first, second, third = views(3)
    for i, view in enumerate((first, second, third)):
        cv2.imwrite(str(folder / f"frames/{i:04d}.png"), view)
        cv2.imwrite(str(folder / f"photos/{'abc'[i]}.jpg"), view)
    for name, view in (("a.jpg", first), ("b.jpg", second), ("picture.jpg", third)):
        cv2.imwrite(str(folder / name), view)
    writer = cv2.VideoWriter(
        str(folder / "walk.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, SIZE, isColor=False
    )
    for view in views(6):
        writer.write(view)
    writer.release()
    (folder / "pairs.txt").write_text("a.jpg b.jpg\na.jpg c.jpg\n")
    recipe = next(b for b in blocks("docs/tutorial/compress.md") if b.language == "toml")
    (folder / "recipe.toml").write_text(recipe.text)
    return folder


@pytest.fixture
def there(reader: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(reader)
    return reader


def test_every_block_has_a_known_language() -> None:
    unknown = [
        f"{b.page}:{b.line}: {b.language!r}"
        for page in PAGES
        for b in blocks(page)
        if b.language not in ("python", "bash", *PLAIN)
    ]
    assert unknown == []


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in of_language("python")],
)
def test_python_blocks_run(page: str, there: Path) -> None:
    prepare(page)
    namespace: dict[str, Any] = {"__name__": "snippet"}
    for block in blocks(page):
        if block.language == "python":
            code = compile("\n" * block.line + block.text, page, "exec")
            exec(code, namespace)


def prepare(page: str) -> None:
    """Run the cheap commands of the page that Python blocks depend on."""
    exports = ("docs/how-to/export-onnx.md", "docs/how-to/onnx.md")
    if page in ("docs/how-to/pair-lists.md", *exports):
        for words in commands(page):
            if words[0] == "featherglue" and runs(words):
                assert cli.main(words[1:]) == 0, words


def commands(page: str) -> Iterator[list[str]]:
    """The words of every shell command of a page."""
    for block in blocks(page):
        if block.language != "bash":
            continue
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def runs(words: list[str]) -> bool:
    """Whether a command of featherglue is cheap and all its inputs exist."""
    if words[1] not in CHEAP or (words[1] == "benchmark" and "--no-cold" not in words):
        return False
    if words[1] == "video" and not Path(words[2]).exists():
        return False
    outputs = {words[i + 1] for i, word in enumerate(words) if word in ("-o", "--json")}
    named = [word for word in words[2:] if re.search(r"\.\w{2,4}$|\w/|^[A-Z]+(/|$)", word)]
    return all(Path(word).exists() for word in named if word not in outputs)


@pytest.mark.parametrize("page", of_language("bash"))
def test_commands_exist(page: str) -> None:
    for words in commands(page):
        check(words)


@pytest.mark.slow
@pytest.mark.parametrize("page", of_language("bash"))
def test_cheap_commands_run(page: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        if words[0] == "featherglue" and runs(words):
            code = cli.main(words[1:])
            assert code == 0, f"{' '.join(words)}: {capsys.readouterr().err}"


def check(words: list[str]) -> None:
    """Every command, option, target, script and extra of a command line exists."""
    program, *rest = words
    if program == "featherglue":
        parse(rest)
        for path in (word for word in rest if word.startswith(("configs/", "checkpoints/"))):
            assert (ROOT / path).exists(), words
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), words
    elif program == "pip":
        assert rest[0] == "install"
        project = read_toml(ROOT / "pyproject.toml")["project"]
        for extras in re.findall(r"\[(.*?)\]", rest[-1]):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), words
    elif program == "python":
        path = Path(*rest[1].split("."), "__main__.py") if rest[0] == "-m" else Path(rest[0])
        if rest[0] == "-m" and not (ROOT / path).exists():  # a module of another package
            spec = find_spec(rest[1])
            assert spec is not None and spec.origin is not None, words
            path = Path(spec.origin)
        script = (ROOT / path).read_text(encoding="utf-8")
        for option in (word for word in rest if word.startswith("--")):
            assert option in script, f"{rest[0]} has no option {option}"
    elif program in ("cmake", "node") or program.startswith("examples/"):
        for path in (word for word in words if word.startswith("examples/")):
            assert (ROOT / path.partition("/build")[0]).exists(), words
    else:
        pytest.fail(f"no check for {words}")


def parse(arguments: list[str]) -> None:
    """Parse the arguments of featherglue without running the command."""
    arguments = cli.join_sizes(arguments)
    command = typer.main.get_command(cli._application(cli._COMMANDS))
    parent = None
    while hasattr(command, "commands"):
        name = next((word for word in arguments if not word.startswith("-")), None)
        if name is None:  # --help or --version
            assert arguments in (["--help"], ["--version"]), arguments
            return
        parent = command.make_context("featherglue", [], parent, resilient_parsing=True)
        assert name in command.commands, f"no command {name!r}"
        command, arguments = command.commands[name], arguments[1:]
        if arguments[:1] == ["--help"]:
            return
    command.make_context(name, list(arguments), parent)


@pytest.mark.parametrize("page", of_language("toml"))
def test_recipes_are_valid(page: str, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            (tmp_path / "recipe.toml").write_text(block.text)
            assert Recipe.load(tmp_path / "recipe.toml").steps


def test_links_to_files_exist() -> None:
    missing = []
    generated = ("python.md", "packages.md", "command-line.md", "settings.md", "recipe-steps.md")
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" in target or os.path.basename(target) in generated:  # noqa: PTH119
                continue
            if not ((ROOT / page).parent / target).exists():
                missing.append(f"{page}: {target}")
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
