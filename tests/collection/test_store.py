"""Feature and match files of other programs, of the wrong kind, and with wrong arrays."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featherglue.collection.numbered_keypoints import (
    NumberedKeypoints,
    pixel_scale,
    read_matches,
    stored_frames,
)
from featherglue.collection.records import Record
from featherglue.collection.store import Store, write_store
from featherglue.errors import StoreError

ARRAYS = {
    "keypoints": np.ones((3, 2), np.float32),
    "descriptors": np.ones((4, 3), np.float16),
    "scores": np.ones(3, np.float16),
    "image_size": np.array([40, 32]),
}
MATCHES = {"matches0": np.array([0, -1, 2], np.int16), "matching_scores0": np.ones(3, np.float16)}


def write(path: Path, key: tuple[str, ...], arrays: dict[str, Any]) -> Path:
    write_store(path, {}, [Record(key=key, attributes={}, arrays=arrays)])
    return path


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("keypoints", np.ones((3, 4), np.float32)),
        ("keypoints", np.ones(3, np.float32)),
        ("keypoints", np.full((3, 2), np.nan, np.float32)),
        ("keypoints", np.array([["a", "b"]] * 3, "S1")),
        ("descriptors", np.ones((4, 2), np.float16)),
        ("scores", np.ones(4, np.float16)),
        ("image_size", np.array([40, 32, 3])),
        ("image_size", np.array([0, 32])),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, name: str, array: np.ndarray) -> None:
    path = write(tmp_path / "a.h5", ("a.jpg",), ARRAYS | {name: array})
    with Store(path) as store, pytest.raises(StoreError, match=rf"a\.h5: a\.jpg: '{name}"):
        store.read(("a.jpg",))


def test_wrong_matches_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", ("a", "b"), MATCHES | {"matching_scores0": np.ones(2, "f2")})
    with Store(path) as store, pytest.raises(StoreError, match="'matching_scores0' has not"):
        store.read(("a", "b"))


@pytest.mark.parametrize(
    "use",
    [
        lambda features, matches: NumberedKeypoints(matches),
        lambda features, matches: list(read_matches(features, NumberedKeypoints(features))),
    ],
)
def test_features_and_matches_are_not_exchanged(
    tmp_path: Path, use: Callable[[Store, Store], Any]
) -> None:
    features = write(tmp_path / "f.h5", ("a.jpg",), ARRAYS)
    matches = write(tmp_path / "m.h5", ("a.jpg", "b.jpg"), MATCHES)
    with (
        Store(features) as first,
        Store(matches) as second,
        pytest.raises(StoreError, match=r"not the right kind of file|not a match file"),
    ):
        use(first, second)


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "hloc.h5", "w") as file:
        file.create_dataset("sub/a.jpg/keypoints", data=np.ones((2, 2), np.float16))
    with Store(tmp_path / "hloc.h5") as store:
        assert store.manifest == {}
        assert NumberedKeypoints(store).points["sub/a.jpg"].shape == (2, 2)


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from featherglue.collection.records import Record
from featherglue.collection.store import write_store
from featherglue.errors import OutputError
folder = Path(sys.argv[1])
records = [
    Record(key=(f"{i}.jpg",), attributes={}, arrays={"keypoints": np.ones((300, 2), np.float32)})
    for i in range(40)
]
for limit in range(0, 110_000, 10_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_store(folder / "a.h5", {}, records)
    except OutputError as error:
        print(error)
    assert not list(folder.iterdir()), limit
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write_store(folder / "a.h5", {}, records)
"""


def test_a_full_disk_leaves_nothing_and_does_not_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 11
    assert all(line.endswith("a.h5: cannot be written (File too large)") for line in lines)
    with Store(tmp_path / "a.h5") as store:
        assert len(store.sorted_keys()) == 40
        assert store.read(("39.jpg",)).arrays["keypoints"].shape == (300, 2)


def test_the_unfinished_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.h5.999999.partial").write_bytes(b"half")
    path = write(tmp_path / "a.h5", ("a.jpg",), ARRAYS)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("text", [b'"made with": 1', b'"orientation": 1', b'"cannot be read"'])
def test_changed_attributes_are_damage(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "features.h5"
    keypoints = np.zeros((3, 2), np.float32)
    good = Record(key=("a.jpg",), attributes={"orientation": 1}, arrays={"keypoints": keypoints})
    failed = Record(key=("b.jpg",), attributes={"error": "cannot be read"})
    write_store(path, {"made with": 1}, [good, failed])
    data = path.read_bytes()
    assert data.count(text) == 1
    path.write_bytes(data.replace(text, text[:-1] + b"2" if text[-1:] == b"1" else text.upper()))
    with pytest.raises(StoreError, match="damaged"), Store(path) as store:
        store.attributes()


def test_attributes_without_checksums_are_read(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    keypoints = np.zeros((3, 2), np.float32)
    record = Record(key=("a.jpg",), attributes={"orientation": 6}, arrays={"keypoints": keypoints})
    write_store(path, {"made with": 1}, [record])
    with h5py.File(path, "a") as file:
        for item in (file, file["a.jpg"]):
            for name in [name for name in item.attrs if name.endswith("_crc32")]:
                del item.attrs[name]
    with Store(path) as store:
        assert store.attributes() == {("a.jpg",): {"orientation": 6}}
        assert store.manifest["made with"] == 1


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.h5", ("c", "d"), MATCHES)
    texts = {"key": '["sub/a.jpg", "b.jpg"]', "featherglue": '{"fingerprint": "1"}'}
    with h5py.File(path, "a") as file:
        group = file.create_group("sub-a.jpg/b.jpg")
        for name, array in MATCHES.items():
            group[name] = array
        for name, text in texts.items():
            group.attrs[name] = text
            group.attrs[f"{name}_crc32"] = np.uint32(zlib.crc32(text.encode()))
    pair = ("sub/a.jpg", "b.jpg")
    with Store(path) as store:
        assert store.sorted_keys() == [("c", "d"), pair]
        assert store.attributes() == {("c", "d"): {}, pair: {"fingerprint": "1"}}
        assert store.read(pair).attributes == {"fingerprint": "1"}


@pytest.mark.parametrize("size", [(40, 32), (160, 128)])
def test_pixel_scale_is_that_of_most_images(tmp_path: Path, size: tuple[int, int]) -> None:
    arrays = ARRAYS | {"image_size": np.array(size)}
    records = [
        Record(key=(name,), attributes={"working_size": working}, arrays=arrays)
        for name, working in (("a", (40, 32)), ("b", (40, 32)), ("c", size))
    ]
    write_store(tmp_path / "a.h5", {}, records)
    with Store(tmp_path / "a.h5") as store:
        frames = stored_frames(store)
    assert pixel_scale(frames) == size[0] / 40
    assert pixel_scale([]) == 1
