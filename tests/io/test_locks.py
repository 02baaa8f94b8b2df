"""Claims of folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from featherglue.errors import OutputError
from featherglue.io.locks import CAN_LOCK, claimed_folder, take_lock

pytestmark = pytest.mark.skipif(not CAN_LOCK, reason="the system has no locks of folders")


def test_a_claimed_folder_is_refused_until_it_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "work"
    with claimed_folder(folder):
        assert folder.is_dir()
        with pytest.raises(OutputError, match="work: another process"), claimed_folder(folder):
            pass
    with claimed_folder(folder):
        shutil.rmtree(folder)
        with claimed_folder(folder):  # a new folder of the same name
            pass


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    code = (
        "import sys, time; from featherglue.io.locks import claimed_folder\n"
        f"with claimed_folder({str(tmp_path)!r}): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutputError), claimed_folder(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate(timeout=30)
    with claimed_folder(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="file: cannot be created"),
        claimed_folder(tmp_path / "file"),
    ):
        pass


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("")
    first, second = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    try:
        assert take_lock(first)
        assert not take_lock(second)
    finally:
        os.close(first)
    assert take_lock(second, wait=True)
    os.close(second)
