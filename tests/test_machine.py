"""The description of the machine."""

from __future__ import annotations

import errno
import json
import os

import cv2
import numpy as np
import pytest

from featherglue.machine import describe_machine, exhausted_resource, num_cores, peak_memory


def test_the_description_is_plain_and_complete() -> None:
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["processor"] and machine["system"] and machine["python"]
    assert machine["cores"] == num_cores()
    assert machine["versions"]["numpy"] == np.__version__


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs the affinity of a process")
def test_only_allowed_cores_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    assert num_cores() == 3


def test_peak_memory_grows_with_use() -> None:
    before = peak_memory()
    block = np.ones(2**25)  # 256 MiB
    assert peak_memory() > 2**26
    assert peak_memory() >= before
    assert block[0] == 1


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (MemoryError(), "not enough memory"),
        (
            MemoryError("Unable to allocate 5.2 GiB"),
            "not enough memory (Unable to allocate 5.2 GiB)",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (
            RuntimeError(
                "bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 15360000"
            ),
            "not enough memory for 15.4 MB more",
        ),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000 bytes"
            ),
            "not enough memory for 8.0 MB more",
        ),
        (RuntimeError("std::bad_alloc"), "not enough memory"),
        (
            cv2.error(
                "alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 30720000 bytes"
            ),
            "not enough memory for 30.7 MB more",
        ),
        (
            cv2.error("The numpy array of typenum=0, ndims=2 can not be created"),
            "not enough memory",
        ),
    ],
)
def test_a_lack_of_a_resource_is_recognized(error: Exception, lack: str) -> None:
    assert exhausted_resource(error).startswith(lack)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOENT, "No such file"), OSError(errno.ENOSPC, "full"), ValueError("memory")],
)
def test_other_errors_are_no_lack_of_a_resource(error: Exception) -> None:
    assert exhausted_resource(error) == ""
