"""Imports run one way, and nobody pays for what is not used."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

import featherglue
from featherglue.artifact.format import load_artifact
from featherglue.export.networks import export_onnx

ROOT = Path(featherglue.__file__).parent

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "architecture.md"

# Level of each module, from the table of the architecture page.
LEVELS = {
    name: int(level)
    for level, names in re.findall(
        r"^\| (\d+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    for name in re.findall(r"`(\w+)`", names)
}
# Whoever is not here runs on what `pip install featherglue` brings.
DEPENDENCIES = {
    "cv2",
    "numpy",
    "onnxruntime",
    "platformdirs",
    "rich",
    "safetensors",
    "typer",
}
OPTIONAL = {
    "torch": (
        "models",
        "train",
        "compression",
        "runtime.torch_",
        "sensitivity",
    ),
    "onnx": ("export", "compression"),
    "h5py": ("data.feature_files",),
    "openvino": ("runtime.openvino_",),
    "matplotlib": ("evaluation.plots", "sensitivity.figures", "train.engine.curves"),
}


@dataclass(frozen=True)
class Import:
    """`source` imports `target`; `top`: as soon as it is imported itself."""

    source: str
    target: str
    top: bool


def imports() -> Iterator[Import]:
    """Every import in the package, TYPE_CHECKING blocks left out."""
    for path in sorted(ROOT.rglob("*.py")):
        source = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        unseen: set[ast.AST] = set()
        late: set[ast.AST] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                unseen.update(ast.walk(node))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                late.update(ast.walk(node))
        for node in ast.walk(tree):
            if node in unseen:
                continue
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source}: a relative import"
                names = [node.module or ""]
                if (ROOT.parent / (node.module or "").replace(".", "/")).is_dir():
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                yield Import(source, name, node not in late)


EVERY = list(imports())
OURS = [
    Import(i.source, i.target.removeprefix("featherglue").removeprefix("."), i.top)
    for i in EVERY
    if i.target.split(".")[0] == "featherglue"
]


def area(module: str) -> str:
    return module.partition(".")[0]


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def test_the_table_of_levels_is_complete() -> None:
    found = {path.stem if path.suffix else path.name for path in ROOT.iterdir()}
    modules = {
        name
        for name in found - {"__init__", "__pycache__"}
        if (ROOT / f"{name}.py").exists() or (ROOT / name / "__init__.py").exists()
    }
    assert modules <= set(LEVELS), (
        "add the new module to the table of levels in the architecture page"
    )
    assert len(OURS) > 100


def test_imports_run_one_way() -> None:
    wrong = [
        f"{i.source} imports {i.target}"
        for i in OURS
        if i.source not in ("", "__init__")
        and area(i.target) in LEVELS
        and area(i.target) != area(i.source)
        and LEVELS[area(i.target)] >= LEVELS[area(i.source)]
    ]
    assert wrong == []


def test_no_circles_within_a_package() -> None:
    edges: dict[str, set[str]] = {}
    modules = {i.source for i in EVERY}
    for i in OURS:
        if i.top:
            name = i.target if i.target in modules else i.target.rpartition(".")[0]
            edges.setdefault(i.source, set()).add(name)

    def reaches(start: str, goal: str) -> bool:
        seen: set[str] = set()
        stack = list(edges.get(start, ()))
        while stack:
            module = stack.pop()
            if module == goal:
                return True
            if module not in seen:
                seen.add(module)
                stack += edges.get(module, ())
        return False

    circles = [m for m in edges if m not in ("", "__init__") and reaches(m, m)]
    assert circles == []


def test_the_networks_are_known_to_few() -> None:
    allowed = (
        "models",
        "train",
        "compression",
        "runtime.torch_",
        "sensitivity",
    )
    for i in OURS:
        if within(i.target, ("models", "train", "compression")) and not within(i.source, allowed):
            # The public names and the commands reach for them when they are called for.
            assert area(i.source) in ("__init__", "cli"), i
            assert not i.top, i


def test_compress_is_given_its_score_and_does_not_evaluate() -> None:
    assert not [
        i
        for i in OURS
        if within(i.source, ("compression", "train")) and area(i.target) == "evaluation"
    ]


def test_optional_parts_are_imported_where_they_are_used() -> None:
    wrong = []
    for i in EVERY:
        name = area(i.target)
        if name in (*sys.stdlib_module_names, *DEPENDENCIES, "featherglue", "tomli"):
            continue
        if not i.top and area(i.source) in ("cli", "evaluation"):
            continue
        if not within(i.source, OPTIONAL.get(name, ())):
            wrong.append(f"{i.source} imports {i.target}")
    assert wrong == []


def test_torch_is_where_the_making_is() -> None:
    places = {area(i.source) for i in EVERY if area(i.target) == "torch"}
    assert {"models", "train"} <= places
    assert "data" not in places
    assert "session" not in places


# --- in a fresh interpreter -----------------------------------------------------------------


def fresh(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_featherglue_is_light() -> None:
    heavy = ("torch", "cv2", "numpy", "onnx", "onnxruntime", "typer", "rich")
    code = f"import sys, featherglue; print(*(m for m in {heavy} if m in sys.modules))"
    assert fresh(code).split() == []


def test_loading_and_the_command_line_do_without_torch() -> None:
    heavy = ("torch", "onnx", "openvino", "matplotlib", "transformers", "skimage")
    code = f"""
import sys, featherglue
featherglue.load, featherglue.Session, featherglue.Features
import featherglue.cli, featherglue.collection.pair_matching
assert featherglue.cli.main(["--help"]) == 0  # which needs every command
assert "featherglue.cli.train" in sys.modules
print("loaded:", *(m for m in {heavy} if m in sys.modules))
"""
    assert fresh(code).split()[-1] == "loaded:"


def test_a_command_is_not_kept_waiting_for_the_others() -> None:
    code = """
import sys, featherglue.cli
assert featherglue.cli.main(["match", "--help"]) == 0
print("loaded:", *(m for m in sorted(sys.modules) if m.startswith("featherglue.cli.")))
print("others:", *(m for m in sys.modules if m.startswith("featherglue.evaluation")))
"""
    *_, loaded, others = fresh(code).splitlines()
    assert loaded.split()[1:] == [
        "featherglue.cli.common",
        "featherglue.cli.match",
        "featherglue.cli.progress",
        "featherglue.cli.session_options",
    ]
    assert others.split() == ["others:"]


def test_matching_works_where_nothing_optional_is_installed(
    matching: Path, grey: np.ndarray, tmp_path: Path
) -> None:
    artifact = load_artifact(matching)
    folder = tmp_path / "model"
    folder.mkdir()
    for path in matching.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    export_onnx(artifact, folder)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    code = f"""
import sys
for name in ("torch", "onnx", "openvino", "matplotlib", "transformers", "skimage", "tomli"):
    sys.modules[name] = None
import featherglue
image = {str(tmp_path / "a.png")!r}
result = featherglue.load({str(folder)!r}, threads=1)(image, image)
assert len(result.matches) > 50
try:
    featherglue.Model
except featherglue.FeatherglueError as error:
    print(error)
"""
    said = fresh(code, FEATHERGLUE_CACHE=str(tmp_path / "cache"))
    assert "pip install 'featherglue[train]'" in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["match", "--help"]])
def test_the_module_runs(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "featherglue", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "120"},
    )
    assert done.returncode == 0
    assert "Usage: featherglue" in done.stdout
    assert done.stderr == ""
