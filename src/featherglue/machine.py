"""The machine: processor, cores, versions, memory, and what it lacks when work fails."""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("featherglue", "numpy", "opencv-python-headless", "onnxruntime", "openvino", "torch")
_FLAGS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "asimd", "asimddp")


def describe_machine() -> dict[str, Any]:
    """Describe the machine for the record of a measurement.

    Returns:
        Plain values: `processor` (name), `flags` (relevant instruction sets), `cores` (number that
        this process may use), `system`, `python`, and `versions` of the installed libraries.
    """
    name, flags = _processor()
    return {
        "processor": name,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": num_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {library: version for library in _LIBRARIES if (version := _version(library))},
    }


def num_cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def max_threads() -> int:
    """Maximum number of threads or processes that a caller may ask for on this machine.

    It leaves room for measurements with more threads than cores; numbers beyond it are mistakes.
    """
    return max(64, 4 * (os.cpu_count() or 1))


# What libraries say when an allocation fails, with and without its size in bytes.
_ALLOCATION = re.compile(
    r"(?:failed to allocate|tried to allocate|requested buffer of size)\D{0,20}?(\d+)", re.I
)
_NO_MEMORY = re.compile(
    r"std::bad_alloc|bad allocation|insufficient memory|cannot allocate memory"
    r"|numpy array of typenum|failed to map segment",
    re.I,
)
_LACKS = {
    errno.ENOMEM: "not enough memory",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
    errno.EAGAIN: "no more processes or threads can be started",
}


def exhausted_resource(error: BaseException) -> str:
    """What the machine lacked, if that caused an error of Python or of a library; else "".

    Recognized are memory (with the size of the allocation where the library states it), open
    files, threads and processes.
    """
    if isinstance(error, OSError) and error.errno in _LACKS:
        return _LACKS[error.errno]
    text = str(error)
    if isinstance(error, MemoryError):
        return f"not enough memory ({text})" if text else "not enough memory"
    if "can't start new thread" in text:
        return "no more threads can be started"
    allocation = _ALLOCATION.search(text)
    if allocation:
        return f"not enough memory for {int(allocation[1]) / 1e6:.1f} MB more"
    return "not enough memory" if _NO_MEMORY.search(text) else ""


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the parent's memory at the time of the fork
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> tuple[str, set[str]]:
    """Name and instruction sets of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return (
        name[1].strip() if name else platform.machine(),
        set(flags[1].split()) if flags else set(),
    )


def _version(library: str) -> str:
    """Installed version of a library; empty if it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
