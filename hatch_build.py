"""Build hook: compiles the C kernels of featherglue.native with the compiler of the machine.

Without a compiler the package is installed without them; ONNX Runtime and NumPy do their work.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/featherglue/native")
FLAGS = [
    *("-std=c11", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"),
    "-ffp-contract=fast",  # products and sums as one instruction, which -std=c11 switches off
    *("-fvisibility=hidden", "-fPIC", "-shared", "-pthread"),
]
# Compiler options by the name of the library. The fastest one that the processor runs is loaded.
X86_LEVELS = {"libkernels_x86_64_v3": ["-march=x86-64-v3"], "libkernels": []}


class KernelHook(BuildHookInterface):  # type: ignore[misc]
    """Adds the compiled libraries to wheels and editable installations."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile for a wheel; a source distribution holds the sources only."""
        del version
        if self.target_name != "wheel":
            return
        folder = Path(self.root) / FOLDER
        built = compile_kernels(folder)
        if built:
            build_data["artifacts"] += [str((FOLDER / path.name).as_posix()) for path in built]
            build_data["pure_python"] = False
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{tag}"

    def clean(self, versions: list[str]) -> None:
        """Remove the compiled libraries."""
        del versions
        for path in (Path(self.root) / FOLDER).glob("libkernels*.so"):
            path.unlink()


def compile_kernels(folder: Path) -> list[Path]:
    """Compile the kernels into their folder.

    Returns:
        The libraries. Without a compiler, or if compilation fails, a message is printed and the
        list is empty.
    """
    compiler = _compiler()
    if compiler is None:
        print(
            "featherglue: no C compiler found; the kernels are left out, and featherglue is slower"
        )
        return []
    sources = [str(path) for path in sorted(folder.glob("*.c"))]
    version = f"-DSOURCE_HASH={source_hash(folder)}u"
    levels = X86_LEVELS if platform.machine().lower() in ("x86_64", "amd64") else {"libkernels": []}
    built = []
    for name, level in levels.items():
        partial = folder / f"{name}.{os.getpid()}.partial"
        command = [*compiler, *FLAGS, *level, version, *sources, "-o", str(partial), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            partial.unlink(missing_ok=True)
            print(f"featherglue: {name} was not compiled:\n{done.stderr}", file=sys.stderr)
            continue
        partial.replace(folder / f"{name}.so")  # running processes keep what they have loaded
        built.append(folder / f"{name}.so")
    return built


def source_hash(folder: Path) -> int:
    """Checksum of the sources. The package computes it again and ignores other libraries."""
    paths = sorted((*folder.glob("*.c"), *folder.glob("*.h")))
    return zlib.crc32(b"".join(path.read_bytes() for path in paths))


def _compiler() -> list[str] | None:
    if sys.platform == "win32":
        return None
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    return None


if __name__ == "__main__":
    for compiled in compile_kernels(Path(__file__).parent / FOLDER):
        print(compiled)
