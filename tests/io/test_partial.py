"""Partial files: those of killed processes are removed, those of running ones are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from featherglue.artifact.folder import replace_folder
from featherglue.io import partial
from featherglue.io.files import atomic_write
from featherglue.io.partial import PartialFile, partial_folder

pytest.importorskip("fcntl")
_WRITER = """
import sys
from pathlib import Path
from featherglue.io.partial import PartialFile, partial_folder
file = PartialFile(Path(sys.argv[1]), ".mp4")
with partial_folder(Path(sys.argv[1])) as folder:
    (folder / "data").write_text("unfinished")
    print("writing", flush=True)
    sys.stdin.read()
"""


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*"))


@pytest.mark.slow
def test_only_what_a_killed_process_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / ".other.partial"
    foreign.touch()
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        assert len(unfinished(tmp_path)) == 3
        with atomic_write(tmp_path / "first") as file:
            file.write(b"1")
        assert len(unfinished(tmp_path)) == 3  # their writer runs
        process.kill()
    monkeypatch.setattr(partial, "_swept", set())  # as in the next process
    with atomic_write(tmp_path / "second") as file:
        file.write(b"2")
    assert unfinished(tmp_path) == [foreign]
    assert (tmp_path / "first").read_bytes() + (tmp_path / "second").read_bytes() == b"12"


def test_an_error_leaves_no_partial_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), partial_folder(tmp_path) as folder:
        (folder / "b").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    with atomic_write(path) as file:
        file.write(b"data")
    assert path.read_bytes() == b"data"


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    first, second = PartialFile(tmp_path), PartialFile(tmp_path)
    first.file.write(b"first")
    second.file.write(b"second")
    for writer in (first, second):
        writer.replace(tmp_path / "result")
        writer.discard()
    assert (tmp_path / "result").read_bytes() == b"second"


def test_a_model_folder_is_never_missing_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    header = b'{"format": "featherglue"}'
    replace_folder(folder, {"config.json": header, "old": b""})
    renamed = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda a, b: (renamed.append(a), rename(a, b))[1])
    replace_folder(folder, {"config.json": header, "new": b""})
    assert {path.name for path in folder.iterdir()} == {"config.json", "new"}
    assert list(tmp_path.iterdir()) == [folder]
    if sys.platform == "linux":
        assert renamed == []  # the folders were swapped in one step
