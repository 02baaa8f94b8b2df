"""Direction of imports, optional dependencies, and modules that importing featherglue loads."""

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
# Dependencies that `pip install featherglue` installs.
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
    "h5py": ("data.feature_files", "collection.hdf5_items", "collection.store"),
    "pycolmap": ("io.pycolmap_",),
    "scipy": ("collection.track_adjustment", "collection.vocabulary"),
    "faiss": ("collection.retrieval",),
    "ray": ("collection.cluster",),
    "openvino": ("runtime.openvino_",),
    "matplotlib": ("evaluation.plots", "sensitivity.figures", "train.engine.curves"),
}


@dataclass(frozen=True)
class Import:
    """`source` imports `target`; `top` is False for imports inside of functions."""

    source: str
    target: str
    top: bool


def imports() -> Iterator[Import]:
    """All imports of the package except those in TYPE_CHECKING blocks."""
    for path in sorted(ROOT.rglob("*.py")):
        source = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        type_checking: set[ast.AST] = set()
        in_functions: set[ast.AST] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                type_checking.update(ast.walk(node))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                in_functions.update(ast.walk(node))
        for node in ast.walk(tree):
            if node in type_checking:
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
                yield Import(source, name, node not in in_functions)


ALL_IMPORTS = list(imports())
INTERNAL = [
    Import(i.source, i.target.removeprefix("featherglue").removeprefix("."), i.top)
    for i in ALL_IMPORTS
    if i.target.split(".")[0] == "featherglue"
]


def area(module: str) -> str:
    return module.partition(".")[0]


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def test_table_of_levels_is_complete() -> None:
    found = {path.stem if path.suffix else path.name for path in ROOT.iterdir()}
    modules = {
        name
        for name in found - {"__init__", "__pycache__"}
        if (ROOT / f"{name}.py").exists() or (ROOT / name / "__init__.py").exists()
    }
    assert modules <= set(LEVELS), (
        "add the new module to the table of levels in the architecture page"
    )
    assert len(INTERNAL) > 100


def test_packages_import_lower_levels_only() -> None:
    wrong = [
        f"{i.source} imports {i.target}"
        for i in INTERNAL
        if i.source not in ("", "__init__")
        and area(i.target) in LEVELS
        and area(i.target) != area(i.source)
        and LEVELS[area(i.target)] >= LEVELS[area(i.source)]
    ]
    assert wrong == []


def test_no_circular_imports_within_a_package() -> None:
    edges: dict[str, set[str]] = {}
    modules = {i.source for i in ALL_IMPORTS}
    for i in INTERNAL:
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

    cycles = [m for m in edges if m not in ("", "__init__") and reaches(m, m)]
    assert cycles == []


def test_only_some_packages_import_the_networks() -> None:
    allowed = (
        "models",
        "train",
        "compression",
        "runtime.torch_",
        "sensitivity",
    )
    for i in INTERNAL:
        if within(i.target, ("models", "train", "compression")) and not within(i.source, allowed):
            # The public names and the commands import them on first use.
            assert area(i.source) in ("__init__", "cli"), i
            assert not i.top, i


def test_compression_and_training_do_not_import_evaluation() -> None:
    assert not [
        i
        for i in INTERNAL
        if within(i.source, ("compression", "train")) and area(i.target) == "evaluation"
    ]


def test_scripts_use_the_library_and_not_the_command_line() -> None:
    scripts = [
        path
        for folder in ("benchmarks", "examples", "studies")
        for path in sorted((PAGE.parents[2] / folder).rglob("*.py"))
    ]
    assert len(scripts) > 20
    wrong = [p.name for p in scripts if "featherglue.cli" in p.read_text(encoding="utf-8")]
    assert wrong == []


def test_optional_dependencies_are_imported_only_where_used() -> None:
    wrong = []
    for i in ALL_IMPORTS:
        name = area(i.target)
        if name in (*sys.stdlib_module_names, *DEPENDENCIES, "featherglue", "tomli"):
            continue
        if not i.top and area(i.source) in ("cli", "evaluation"):
            continue
        if not within(i.source, OPTIONAL.get(name, ())):
            wrong.append(f"{i.source} imports {i.target}")
    assert wrong == []


def test_data_and_session_do_not_import_torch() -> None:
    places = {area(i.source) for i in ALL_IMPORTS if area(i.target) == "torch"}
    assert {"models", "train"} <= places
    assert "data" not in places
    assert "session" not in places


# --- in a fresh interpreter -----------------------------------------------------------------


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_featherglue_loads_no_large_module() -> None:
    heavy = ("torch", "cv2", "numpy", "onnx", "onnxruntime", "typer", "rich")
    code = f"import sys, featherglue; print(*(m for m in {heavy} if m in sys.modules))"
    assert run_python(code).split() == []


def test_session_and_command_line_do_not_import_torch() -> None:
    heavy = ("torch", "onnx", "openvino", "matplotlib", "transformers", "skimage")
    code = f"""
import sys, featherglue
featherglue.load, featherglue.Session, featherglue.Features
import featherglue.cli, featherglue.collection.pair_matching
assert featherglue.cli.main(["--help"]) == 0  # imports every command
assert "featherglue.cli.train" in sys.modules
print("loaded:", *(m for m in {heavy} if m in sys.modules))
"""
    assert run_python(code).split()[-1] == "loaded:"


def test_a_command_does_not_import_the_others() -> None:
    code = """
import sys, featherglue.cli
assert featherglue.cli.main(["match", "--help"]) == 0
print("loaded:", *(m for m in sorted(sys.modules) if m.startswith("featherglue.cli.")))
print("others:", *(m for m in sys.modules if m.startswith("featherglue.evaluation")))
"""
    *_, loaded, others = run_python(code).splitlines()
    assert loaded.split()[1:] == [
        "featherglue.cli.common",
        "featherglue.cli.match",
        "featherglue.cli.outputs",
        "featherglue.cli.progress",
        "featherglue.cli.session_options",
    ]
    assert others.split() == ["others:"]


def test_matching_without_optional_dependencies(
    matching: Path, gray: np.ndarray, tmp_path: Path
) -> None:
    artifact = load_artifact(matching)
    folder = tmp_path / "model"
    folder.mkdir()
    for path in matching.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    export_onnx(artifact, folder)
    cv2.imwrite(str(tmp_path / "a.png"), gray)
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
    output = run_python(code, FEATHERGLUE_CACHE=str(tmp_path / "cache"))
    assert "pip install 'featherglue[train]'" in output
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["match", "--help"]])
def test_python_m_featherglue(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "featherglue", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "120"},
        timeout=300,
    )
    assert done.returncode == 0
    assert "Usage: featherglue" in done.stdout
    assert done.stderr == ""
