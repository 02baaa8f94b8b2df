"""Interrupted work resumes, lost workers are replaced, and results are never mixed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from featherglue.collection import resumable
from featherglue.collection.records import Key, Record, failed_record
from featherglue.collection.resumable import StepResult, run_resumable, work_results
from featherglue.collection.store import Store
from featherglue.errors import ImageError, OutputError, StoreError

MANIFEST = {"kind": "test", "extractor": {"size": 1}}


@dataclass(frozen=True)
class Square:
    """Squares numbers, and notes each call; some numbers fail, raise or kill the process."""

    log: Path
    fails: str = ""
    raises: str = ""
    kills: str = ""
    only_once: bool = False

    def open(self) -> Callable[[Key], Record]:
        return self.work

    def work(self, key: Key) -> Record:
        with self.log.open("a") as file:
            file.write(f"{key[0]}\n")
        if key[0] == self.raises:
            raise ImageError("stop here")
        if key[0] == self.kills and not (self.only_once and self.calls().count(key[0]) > 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if key[0] == self.fails:
            return failed_record(key, "cannot be read")
        array = np.full(3, int(key[0]) ** 2, np.float32)
        return Record(key=key, attributes={}, arrays={"squares": array, "copies": array})

    def calls(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture(autouse=True)
def _few_items_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start worker processes for 16 items already."""
    monkeypatch.setattr(resumable, "_MIN_SHARE", 8)


def items(count: int, state: str = "new") -> dict[Key, str]:
    return {(str(number),): state for number in range(count)}


def run(folder: Path, task: Square, count: int = 20, **options: object) -> StepResult:
    output = folder / "out.h5"
    return run_resumable(output, MANIFEST, items(count), task, **{"workers": 1, **options})  # type: ignore[arg-type]


def test_results_are_stored(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    task = Square(tmp_path / "log", fails="3")
    result = run(tmp_path, task, 5, progress=lambda *counts: seen.append(counts))
    assert seen == [(i, 5) for i in range(1, 6)]
    assert result.failures == {("3",): "cannot be read"}
    with Store(result.output) as store:
        assert store.sorted_keys() == [("0",), ("1",), ("2",), ("4",)]
        assert store.read(("4",)).arrays["squares"].tolist() == [16, 16, 16]
    assert {path.name for path in tmp_path.iterdir()} == {"log", "out.h5"}


def test_a_second_run_does_nothing_and_knows_the_failures(tmp_path: Path) -> None:
    task = Square(tmp_path / "log", fails="3")
    first = run(tmp_path, task, 5)
    state = first.output.stat()
    again = run(tmp_path, task, 5)
    assert again.num_reused == 5
    assert again.failures == first.failures
    assert len(task.calls()) == 5
    assert first.output.stat() == state


def test_a_run_reads_the_attributes_of_earlier_results_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Square(tmp_path / "log", fails="3")
    run(tmp_path, task, 5)
    reads, attributes = [], Store.attributes
    monkeypatch.setattr(
        Store, "attributes", lambda store: reads.append(store.path) or attributes(store)
    )
    assert run(tmp_path, task, 6).num_reused == 5
    assert len(reads) == 1
    assert sorted(task.calls()) == ["0", "1", "2", "3", "4", "5"]


def test_new_and_changed_items_are_done_and_old_ones_dropped(tmp_path: Path) -> None:
    task = Square(tmp_path / "log")
    run(tmp_path, task, 5)
    changed = {**items(4), ("2",): "changed", ("7",): "new"}
    result = run_resumable(tmp_path / "out.h5", MANIFEST, changed, task)
    assert task.calls()[5:] == ["2", "7"]
    assert result.num_reused == 3
    with Store(result.output) as store:
        assert store.sorted_keys() == [("0",), ("1",), ("2",), ("3",), ("7",)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_resumes_with_the_same_bytes(tmp_path: Path, workers: int) -> None:
    whole = run(tmp_path / "whole", Square(tmp_path / "log0"))
    with pytest.raises(ImageError, match="stop here"):
        run(tmp_path / "parts", Square(tmp_path / "log1", raises="17"), workers=workers)
    done = set(Square(tmp_path / "log1").calls()) - {"17"}
    assert len(done) >= 1
    task = Square(tmp_path / "log2")
    resumed = run(tmp_path / "parts", task, workers=workers)
    assert set(task.calls()) == {str(number) for number in range(20)} - done
    assert resumed.output.read_bytes() == whole.output.read_bytes()


def test_results_of_a_block_that_fails_are_reused(tmp_path: Path) -> None:
    output, task = tmp_path / "out.h5", Square(tmp_path / "log")
    with pytest.raises(ZeroDivisionError), work_results(output, MANIFEST, items(5), task):
        raise ZeroDivisionError
    with work_results(output, MANIFEST, items(5), task) as results:
        assert results.num_reused == 5
        assert results.read(("4",)).arrays["squares"].tolist() == [16, 16, 16]
    assert len(task.calls()) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"log"}


def test_a_lost_worker_is_replaced(tmp_path: Path) -> None:
    task = Square(tmp_path / "log", kills="5", only_once=True)
    result = run(tmp_path, task, workers=2)
    assert result.failures == {}
    assert len(result.notes) == 1
    assert "was lost (signal 9)" in result.notes[0]
    assert sorted(task.calls(), key=int) == sorted([*map(str, range(20)), "5"], key=int)
    with Store(result.output) as store:
        assert len(store.sorted_keys()) == 20


def test_an_item_that_kills_its_worker_fails_and_is_tried_by_the_next_run(
    tmp_path: Path,
) -> None:
    result = run(tmp_path, Square(tmp_path / "log", kills="5"), workers=2)
    assert list(result.failures) == [("5",)]
    assert "lost 2 times (signal 9)" in result.failures["5",]
    task = Square(tmp_path / "log2")
    assert run(tmp_path, task, workers=2).failures == {}
    assert task.calls() == ["5"]


def test_other_settings_are_refused_or_replaced(tmp_path: Path) -> None:
    output, task = tmp_path / "out.h5", Square(tmp_path / "log")
    run(tmp_path, task, 3)
    other = {"kind": "test", "extractor": {"size": 2}}
    with pytest.raises(StoreError, match=r"out.h5.*\(size 1, now 2"):
        run_resumable(output, other, items(3), task)
    run_resumable(output, other, items(3), task, overwrite=True)
    assert task.calls() == ["0", "1", "2"] * 2


def test_settings_that_an_older_version_lacked_have_their_defaults(tmp_path: Path) -> None:
    output, task = tmp_path / "out.h5", Square(tmp_path / "log")
    run(tmp_path, task, 3)
    defaults = {"extractor": {"color": False}, "tiles": None}
    later = {"kind": "test", "extractor": {"size": 1, "color": False}, "tiles": None}
    again = run_resumable(output, later, items(3), task, defaults=defaults)
    assert again.num_reused == 3
    later["extractor"] = {"size": 1, "color": True}
    with pytest.raises(StoreError, match=r"\(color False, now True"):
        run_resumable(output, later, items(3), task, defaults=defaults)
    with pytest.raises(StoreError, match=r"\(size 1, now None"):
        run_resumable(output, {"kind": "test", "extractor": {}}, items(3), task)


def test_unfinished_work_with_other_settings_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with pytest.raises(ImageError):
        run(tmp_path, Square(tmp_path / "log", raises="2"), 3)
    other = {"kind": "test", "extractor": {"size": 2}}
    with pytest.raises(StoreError, match="was made with other settings"):
        run_resumable(output, other, items(3), Square(tmp_path / "log"))


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.h5").write_bytes(b"no HDF5")
    with pytest.raises(StoreError, match=r"out.h5: cannot be read as HDF5"):
        run(tmp_path, Square(tmp_path / "log"))


def test_a_damaged_store_is_replaced_on_request(tmp_path: Path) -> None:
    task = Square(tmp_path / "log")
    (tmp_path / "out.h5").write_bytes(b"no HDF5")
    with pytest.raises(StoreError, match=r"out\.h5: cannot be read as HDF5.*use another file, or"):
        run(tmp_path, task, 3)
    assert (tmp_path / "out.h5").read_bytes() == b"no HDF5"
    result = run(tmp_path, task, 3, overwrite=True)
    with Store(result.output) as store:
        assert len(store.sorted_keys()) == 3


def test_damaged_arrays_of_a_store_are_named_with_the_fix(tmp_path: Path) -> None:
    task = Square(tmp_path / "log")
    result = run(tmp_path, task, 3)
    data = result.output.read_bytes()
    value = np.full(3, 4, np.float32).tobytes()
    assert data.count(value) == 2
    result.output.write_bytes(data.replace(value, np.full(3, 5, np.float32).tobytes()))
    with pytest.raises(StoreError, match=r"damaged .*; remove .*out\.h5 to compute"):
        run(tmp_path, task, 4)
    result.output.unlink()
    assert run(tmp_path, task, 4).num_reused == 1  # of the record file


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1e999}', "[" * 10_000])
def test_a_damaged_manifest_of_unfinished_work_is_named(tmp_path: Path, content: str) -> None:
    task = Square(tmp_path / "log", raises="2")
    with pytest.raises(ImageError):
        run(tmp_path, task, 4)
    parts = tmp_path / ".out.h5.parts"
    (parts / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest\.json: damaged"):
        run(tmp_path, Square(tmp_path / "log"), 4)
    assert (parts / "0.records").exists()
    assert run(tmp_path, Square(tmp_path / "log"), 4, overwrite=True).num_reused == 0


def test_records_without_a_manifest_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        run(tmp_path, Square(tmp_path / "log", raises="2"), 4)
    (tmp_path / ".out.h5.parts" / "manifest.json").unlink()
    assert run(tmp_path, Square(tmp_path / "log"), 4).num_reused == 0


def test_two_runs_of_one_output_do_not_mix(tmp_path: Path) -> None:
    task, refused = Square(tmp_path / "log"), []

    def other(completed: int, total: int) -> None:
        with pytest.raises(OutputError, match="another process works in this folder"):
            run(tmp_path, task, 5)
        refused.append(completed)

    run(tmp_path, task, 5, progress=other)
    assert refused == [1, 2, 3, 4, 5]
    assert task.calls() == ["0", "1", "2", "3", "4"]
    assert run(tmp_path, task, 5).num_reused == 5
