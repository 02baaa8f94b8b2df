"""Workers that do not see the files of a task have the same results."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from board_scene import Scene

from featherglue.collection import shipping
from featherglue.collection.alignment_tasks import AlignmentTask, packed_rows
from featherglue.collection.cluster_worker import Failure, Opened, Worker
from featherglue.collection.extraction import ExtractionTask, SessionSource, extract_features
from featherglue.collection.records import ERROR, Key, Record, RecordIndex, RecordWriter
from featherglue.collection.retrieval import DescriptionTask, find_vocabulary
from featherglue.collection.shipping import Sender, probes, unseen
from featherglue.collection.store import Store
from featherglue.collection.store_matching import MatchingTask, match_features
from featherglue.collection.tasks import Part, ShippableTask
from featherglue.options import SessionOptions

PAIRS = [("0.png", "1.png"), ("1.png", "2.png")]


class ObjectStore:
    """`ray.put` and `ray.get`; counts the objects that workers fetch."""

    def __init__(self) -> None:
        self._objects: list[bytes] = []
        self.num_fetched = 0

    def put(self, value: Any) -> int:
        self._objects.append(pickle.dumps(value))
        return len(self._objects) - 1

    def get(self, references: Sequence[int]) -> list[Any]:
        self.num_fetched += len(references)
        return [pickle.loads(self._objects[reference]) for reference in references]


@pytest.fixture
def objects() -> ObjectStore:
    return ObjectStore()


@pytest.fixture(scope="module")
def source() -> SessionSource:
    return SessionSource(model="fast", options=SessionOptions(max_keypoints=300, resize=-1))


@pytest.fixture
def folder(scene: Scene, source: SessionSource, tmp_path: Path) -> Path:
    """A folder with photographs, a broken one, a mask, a model, features and matches."""
    images = tmp_path / "shared" / "photos"
    shutil.copytree(scene.folder, images)
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:100])
    extract_features(images, images.parent / "f.h5", ["0.png", "1.png", "2.png"], source)
    match_features(images, images.parent / "f.h5", images.parent / "m.h5", PAIRS, source)
    return images.parent


def shipped(
    task: ShippableTask, keys: Sequence[Key], folder: Path, objects: ObjectStore
) -> list[Record]:
    """The records of a worker whose machine has no such folder."""
    sender = Sender(objects, task)
    parts = [part for key in keys for part in task.item_parts(key)]
    expected = probes([*task.opening_parts(), *parts])
    opening, manifests = sender.opening(), sender.manifests(parts)
    references: dict[Part, Any] = sender.parts(keys, {root for root, _ in parts})
    sender.close()
    there = pickle.loads(pickle.dumps(task))
    hidden = folder.rename(folder.with_name("hidden"))
    try:
        worker = Worker(there, manifests, objects.get)
        opened = worker.open(expected, opening)
        assert isinstance(opened, Opened)
        assert opened.unseen == {root for root in expected if folder in (root, *root.parents)}
        answers = [worker.work([(key, "state")], references) for key in keys]
        worker.close()
    finally:
        hidden.rename(folder)
    path = folder.with_name("x.records")
    with RecordWriter(path) as writer:
        for answer in answers:
            assert not isinstance(answer, Failure)
            writer.append_encoded(*answer)
    index = RecordIndex([path], {})
    return [index.read(key) for key in keys]


def assert_same(records: Sequence[Record], task: ShippableTask, keys: Sequence[Key]) -> None:
    """The records are those of a worker that sees the files."""
    work = task.open()
    for record, key in zip(records, keys, strict=True):
        alone = work(key)
        stored = json.loads(json.dumps(alone.attributes))  # lists in place of tuples
        assert record.attributes == {**stored, "fingerprint": "state"}
        assert record.arrays.keys() == alone.arrays.keys()
        for name, array in alone.arrays.items():
            np.testing.assert_array_equal(record.arrays[name], array)


def test_photographs_masks_and_the_model_are_sent(
    folder: Path, matching: Path, objects: ObjectStore
) -> None:
    shutil.copytree(matching, folder / "model")
    masks = folder / "masks"
    (masks / "zur Tür").mkdir(parents=True)
    name = "zur Tür/letztes Bild.png"
    shutil.copy(folder / "photos" / "0.png", masks / f"{name}.png")
    task = ExtractionTask(
        source=SessionSource(model=str(folder / "model"), options=SessionOptions(resize=-1)),
        images=folder / "photos",
        max_size=None,
        masks=masks,
    )
    keys = [("0.png",), (name,), ("broken.png",), ("missing.png",)]
    records = shipped(task, keys, folder, objects)
    assert_same(records, task, keys)
    assert str(folder / "photos" / "broken.png") in records[2].attributes[ERROR]
    assert len(records[0].arrays["keypoints"]) > 0


def test_features_and_matches_are_sent(
    folder: Path, source: SessionSource, objects: ObjectStore
) -> None:
    images, features = folder / "photos", folder / "f.h5"
    task = MatchingTask(source=source, images=images, feature_file=features, cascade=True)
    records = shipped(task, PAIRS, folder, objects)
    assert_same(records, task, PAIRS)
    assert all((record.arrays["matches0"] >= 0).sum() > 50 for record in records)
    assert objects.num_fetched == 6  # three images and their features
    masks = folder / "masks"
    masks.mkdir()
    shape = cv2.imread(str(images / "0.png"), cv2.IMREAD_GRAYSCALE).shape
    cv2.imwrite(str(masks / "0.png.png"), np.full(shape, 255, np.uint8))
    searching = replace(task, masks=masks, searched=frozenset(PAIRS))
    assert_same(shipped(searching, PAIRS, folder, objects), searching, PAIRS)
    with Store(folder / "m.h5") as store:
        counts = [int((store.read(key).arrays["matches0"] >= 0).sum()) for key in PAIRS]
    alignment = AlignmentTask(
        images=images,
        feature_file=features,
        match_file=folder / "m.h5",
        kept={key: packed_rows(np.arange(count)) for key, count in zip(PAIRS, counts, strict=True)},
    )
    assert_same(shipped(alignment, PAIRS, folder, objects), alignment, PAIRS)
    described = DescriptionTask(feature_file=features, vocabulary=find_vocabulary("fast"))
    keys = [("0.png",), ("2.png",)]
    assert_same(shipped(described, keys, folder, objects), described, keys)


def test_the_oldest_parts_are_removed(
    folder: Path, objects: ObjectStore, source: SessionSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_MAX_BYTES", 1)
    task = ExtractionTask(source=source, images=folder / "photos", max_size=None)
    keys = [("0.png",), ("1.png",)]
    mirror = shipping.Mirror({task.images}, {}, objects.get)
    place = mirror.folder(task.images)
    sender = Sender(objects, task)
    for key in keys:
        mirror.receive(sender.parts([key], {task.images}))
        assert [path.name for path in place.iterdir()] == list(key)
    mirror.close()
    assert not place.exists()


def test_copies_of_killed_workers_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned, starting = (tmp_path / f"featherglue-received-{i}" for i in range(2))
    abandoned.mkdir()
    starting.mkdir()  # not locked yet
    os.utime(abandoned, (0, 0))
    first, second = (shipping.Mirror({tmp_path / "photos"}, {}, list) for _ in range(2))
    assert not abandoned.exists()
    assert len(list(tmp_path.iterdir())) == 3
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == [starting]


def test_another_file_of_the_same_name_is_not_used(folder: Path) -> None:
    expected = probes([(folder / "photos", "0.png"), (folder / "f.h5", ("0.png",))])
    assert unseen(expected) == set()
    with (folder / "f.h5").open("r+b") as file:
        file.write(b"another")
    (folder / "photos" / "0.png").write_bytes(b"another")
    assert unseen(expected) == set(expected)
    # The first file may not exist, such as a mask.
    expected = probes([(folder, "missing"), (folder, "f.h5")])
    assert expected[folder][0] == "f.h5"
    assert unseen({folder: ("missing", None)}) == {folder}
