"""Record files survive a kill and a full disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featherglue.collection import records
from featherglue.collection.records import Record, RecordIndex, RecordWriter, with_fingerprint
from featherglue.errors import OutputError, StoredFileWarning


def record(number: int) -> Record:
    return Record(
        key=(f"{number}.jpg", "ü b.jpg"),
        attributes={"fingerprint": str(number)},
        arrays={
            "keypoints": np.full((number, 2), number, np.float32),
            "scores": np.zeros(0, np.float16),
        },
    )


def test_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "0.records"
    with RecordWriter(path) as writer:
        for number in (1, 2, 3):
            writer.append(record(number))
    index = RecordIndex([path], {})
    assert list(index.attributes) == [record(number).key for number in (1, 2, 3)]
    found = index.read(record(2).key)
    assert found.attributes == {"fingerprint": "2"}
    assert (found.arrays["keypoints"] == record(2).arrays["keypoints"]).all()
    assert found.arrays["scores"].shape == (0,)
    assert found.arrays["scores"].dtype == np.float16


def test_the_record_with_the_wanted_fingerprint_counts(tmp_path: Path) -> None:
    for name in ("0", "1", "2"):
        with RecordWriter(tmp_path / name) as writer:
            writer.append(with_fingerprint(Record(key=("a",), attributes={}), name))
    paths = [tmp_path / name for name in ("0", "1", "2")]
    index = RecordIndex(paths, {("a",): "1"})
    assert index.read(("a",)).attributes == {"fingerprint": "1"}


@pytest.mark.parametrize("cut", [1, 5, 9, 40])
def test_an_incomplete_record_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "0.records"
    with RecordWriter(path) as writer:
        writer.append(record(1))
        writer.append(record(2))
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(RecordIndex([path], {}).attributes) == [record(1).key]
    with RecordWriter(path) as writer:
        writer.append(record(3))
    assert list(RecordIndex([path], {}).attributes) == [record(1).key, record(3).key]


def test_zeros_at_the_end_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "0.records"
    with RecordWriter(path) as writer:
        writer.append(record(1))
    path.write_bytes(path.read_bytes() + bytes(4096))  # as some file systems do after a crash
    assert list(RecordIndex([path], {}).attributes) == [record(1).key]
    with RecordWriter(path) as writer:
        writer.append(record(2))
    assert list(RecordIndex([path], {}).attributes) == [record(1).key, record(2).key]


def test_a_damaged_record_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "0.records"
    with RecordWriter(path) as writer:
        writer.append(record(1))
        writer.append(record(2))
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)
    with pytest.warns(StoredFileWarning, match=r"0\.records: damaged"):
        assert list(RecordIndex([path], {}).attributes) == [record(1).key]


def test_a_full_disk_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.records"
    with RecordWriter(path) as writer:
        writer.append(record(1))

        def fail(file: object, data: bytes) -> None:
            file.write(data[:7])  # type: ignore[attr-defined]
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(records, "_write_all", fail)
            with pytest.raises(OutputError, match="No space left"):
                writer.append(record(2))
        writer.append(record(3))
    assert list(RecordIndex([path], {}).attributes) == [record(1).key, record(3).key]
