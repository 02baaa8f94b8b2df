"""The build hook compiles the kernels, and says what is wrong with a compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from featherglue.native.library import library_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """hatch_build.py as a module; hatchling is present only while a package is built."""
    module = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    module.BuildHookInterface = object  # type: ignore[attr-defined]
    parts = module.__name__.split(".")
    for count in range(1, len(parts)):
        package = ".".join(parts[:count])
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sources of a small library, as the kernels have them."""
    (tmp_path / "answer.h").write_text("#define ANSWER 42\n")
    (tmp_path / "answer.c").write_text(
        '#include "answer.h"\n'
        '__attribute__((visibility("default"))) unsigned source_hash(void)'
        " { return SOURCE_HASH; }\n"
        '__attribute__((visibility("default"))) int answer(void) { return ANSWER; }\n'
    )
    return tmp_path


needs_compiler = pytest.mark.skipif(
    sys.platform == "win32" or not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="no C compiler",
)


@needs_compiler
@pytest.mark.parametrize("compiler", [None, "{found} -O1"])
def test_sources_are_compiled(
    compiler: str | None, hook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    if compiler:
        found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
        monkeypatch.setenv("CC", compiler.format(found=found))
    built = hook.compile_kernels(folder)
    assert "libkernels.so" in {path.name for path in built}
    assert sorted(folder.glob("*.so")) == sorted(built)
    assert not list(folder.glob("*.partial"))
    loaded = ctypes.CDLL(str(folder / "libkernels.so"))
    assert loaded.answer() == 42
    assert ctypes.c_uint32(loaded.source_hash()).value == hook.source_hash(folder)


def test_the_hash_covers_sources_and_headers(hook: Any, folder: Path) -> None:
    before = hook.source_hash(folder)
    (folder / "notes.txt").write_text("not compiled")
    assert hook.source_hash(folder) == before
    (folder / "answer.h").write_text("#define ANSWER 43\n")
    assert hook.source_hash(folder) != before


@needs_compiler
def test_sources_that_do_not_compile(
    hook: Any, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.c").write_text("int broken(void) { return missing; }\n")
    assert hook.compile_kernels(folder) == []
    message = capfd.readouterr().err
    assert "featherglue: libkernels was not compiled" in message
    assert "missing" in message
    assert not [*folder.glob("*.so"), *folder.glob("*.partial")]


@pytest.mark.skipif(sys.platform == "win32", reason="no kernels on Windows")
def test_a_compiler_that_is_none(
    hook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = folder / "wrong-compiler"
    wrong.write_text("#!/bin/sh\necho 'this is no compiler' >&2\nexit 3\n")
    wrong.chmod(0o755)
    monkeypatch.setenv("CC", str(wrong))
    assert hook.compile_kernels(folder) == []
    assert "was not compiled:\nthis is no compiler" in capfd.readouterr().err


def test_without_a_compiler(
    hook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook.shutil, "which", lambda name: None)
    assert hook.compile_kernels(folder) == []
    assert "no C compiler found" in capfd.readouterr().out


@pytest.mark.skipif(library_name() is None, reason="the kernels are not compiled")
def test_the_hash_of_the_loaded_kernels(hook: Any) -> None:
    from featherglue.native.library import library

    loaded = library()
    assert loaded is not None
    assert loaded.source_hash() == hook.source_hash(ROOT / hook.FOLDER)
