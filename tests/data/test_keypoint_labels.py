"""Label files: round trips, ranks, and errors for other and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.data.keypoint_labels import KeypointLabels, PhotoLabels
from featherglue.data.labeled_photographs import LabeledPhotoFolder
from featherglue.errors import OutputError, TrainingError, UsageError
from featherglue.io.files import write_npz


def photo_labels(count: int, seed: int = 0, size: tuple[int, int] = (64, 48)) -> PhotoLabels:
    rng = np.random.default_rng(seed)
    covered = rng.integers(1, 20, count)
    return PhotoLabels(
        size=size,
        points=(rng.random((count, 2)) * size).astype(np.float32),
        scores=np.sort(rng.random(count).astype(np.float32))[::-1],
        covered=covered.astype(np.uint16),
        found=(covered * rng.random(count)).astype(np.uint16),
        matched=(covered * rng.random(count)).astype(np.uint16),
    )


@pytest.fixture
def labels() -> KeypointLabels:
    photographs = {
        "b/ünï.jpg": photo_labels(9),
        "empty.png": photo_labels(0, size=(480, 320)),
        "a.jpg": photo_labels(4, seed=1, size=(32, 96)),
    }
    return KeypointLabels(photographs, "ab12", {"seed": 3, "labels": {"near": 3.0}})


def test_save_and_load(labels: KeypointLabels, tmp_path: Path) -> None:
    labels.save(tmp_path / "labels.npz")
    read = KeypointLabels.load(tmp_path / "labels.npz")
    assert list(read) == list(labels)
    assert (read.model, read.settings) == (labels.model, labels.settings)
    for name, expected in labels.items():
        found = read[name]
        assert found.size == expected.size
        for column in ("points", "scores", "covered", "found", "matched"):
            array = getattr(found, column)
            np.testing.assert_array_equal(array, getattr(expected, column))
            assert array.dtype == getattr(expected, column).dtype
    assert len(read["empty.png"]) == 0


def test_save_and_load_without_photographs(tmp_path: Path) -> None:
    KeypointLabels({}, "ab", {}).save(tmp_path / "labels.npz")
    assert len(KeypointLabels.load(tmp_path / "labels.npz")) == 0


def test_repeatability_and_matchability() -> None:
    three = PhotoLabels(
        size=(8, 8),
        points=np.zeros((3, 2), np.float32),
        scores=np.ones(3, np.float32),
        covered=np.array([4, 10, 0], np.uint16),
        found=np.array([1, 10, 0], np.uint16),
        matched=np.array([3, 5, 0], np.uint16),
    )
    np.testing.assert_allclose(three.repeatability, [0.25, 1, 0])
    np.testing.assert_allclose(three.matchability, [0.75, 0.5, 0])
    np.testing.assert_allclose(three.rank(("repeatability", "matchability")), [0.1875, 0.5, 0])


@pytest.mark.parametrize(
    "by", [("score",), ("repeatability",), ("repeatability", "matchability", "score")]
)
def test_points_are_sorted_by_rank(labels: KeypointLabels, by: tuple[str, ...]) -> None:
    own = labels["b/ünï.jpg"]
    rank = np.prod([own.scores if name == "score" else getattr(own, name) for name in by], axis=0)
    minimum = float(np.median(rank))
    points = labels.points("b/ünï.jpg", minimum, by)  # type: ignore[arg-type]
    assert points.dtype == np.float32
    assert len(points) == 5
    order = [int(np.flatnonzero((own.points == point).all(1))[0]) for point in points]
    assert (np.diff(rank[order]) <= 0).all()
    assert (rank[order] >= minimum).all()
    assert len(labels.points("b/ünï.jpg", 0.0, by)) == 9  # type: ignore[arg-type]
    assert labels.points("empty.png", 0.0, by).shape == (0, 2)  # type: ignore[arg-type]


def test_wrong_photographs_and_ranks_raise(labels: KeypointLabels) -> None:
    assert len(labels.points("a.jpg", size=(32, 96))) == 4
    with pytest.raises(TrainingError, match=r"a\.jpg: is 96×32 px, but was 32×96"):
        labels.points("a.jpg", size=(96, 32))
    with pytest.raises(TrainingError, match=r"c\.jpg: has no labels"):
        labels.points("c.jpg")
    for by in ((), ("scores",)):
        with pytest.raises(UsageError, match="by must name some of score"):
            labels.points("a.jpg", by=by)  # type: ignore[arg-type]


def test_other_and_damaged_files_raise(labels: KeypointLabels, tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    with pytest.raises(TrainingError, match="no such file"):
        KeypointLabels.load(path)
    labels.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:200], b"", b"text", np.float32(1).tobytes()):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match="damaged"):
            KeypointLabels.load(path)
    write_npz(path, {"points": np.zeros((3, 2))})
    with pytest.raises(TrainingError, match="not a label file"):
        KeypointLabels.load(path)
    np.savez(path, header=np.array([{"format": 1}], dtype=object))
    with pytest.raises(TrainingError, match="damaged"):
        KeypointLabels.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version 2, expected"),
        ("names", ["a"], "are inconsistent"),
        ("points", np.zeros((12, 2), np.float32), "are inconsistent"),
        ("scores", np.zeros(13), "are inconsistent"),
        ("ends", np.array([9, 8, 13]), "are inconsistent"),
    ],
)
def test_inconsistent_files_raise(
    labels: KeypointLabels, tmp_path: Path, key: str, value: object, message: str
) -> None:
    path = tmp_path / "labels.npz"
    labels.save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    if isinstance(value, np.ndarray):
        arrays[key] = value
    else:
        header = json.loads(arrays["header"].tobytes()) | {key: value}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    write_npz(path, arrays)
    with pytest.raises(TrainingError, match=message):
        KeypointLabels.load(path)


def test_save_to_an_unwritable_path_raises(labels: KeypointLabels, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        labels.save(tmp_path / "file" / "labels.npz")


# --- photographs with labels ---------------------------------------------------------------------


def test_labels_of_a_higher_rank_are_targets_more_often(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((80, 96), np.uint8))
    scores = np.array([0.9, 0.5, 0.3, 0.1], np.float32)
    points = np.arange(8, dtype=np.float32).reshape(4, 2) * 8
    many = np.full(4, 9, np.uint16)
    own = PhotoLabels(
        size=(96, 80), points=points, scores=scores, covered=many, found=many, matched=many
    )
    labels = KeypointLabels({"a.png": own}, "ab", {})
    rng = np.random.default_rng(0)

    def counts(folder: LabeledPhotoFolder) -> np.ndarray:
        """How often each label was in 400 pictures."""
        drawn = [folder.keypoints(*folder.draw(rng)) for _ in range(400)]
        return np.array(
            [sum((picture[:, 1] == y).any() for picture in drawn) for y in points[:, 1]]
        )

    np.testing.assert_array_equal(
        counts(LabeledPhotoFolder(tmp_path, labels, 0.2, ("score",))), [400, 400, 400, 0]
    )
    shares = counts(LabeledPhotoFolder(tmp_path, labels, 0.2, ("score",), 0.6)) / 400
    np.testing.assert_allclose(shares, [1, 0.75, 0.25, 0], atol=0.08)


def test_labels_of_other_photographs_raise(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((80, 96), np.uint8))
    labels = KeypointLabels({"a.png": photo_labels(4, size=(96, 64))}, "ab", {})
    with pytest.raises(TrainingError, match=r"a\.png: is 96×80 px"):
        LabeledPhotoFolder(tmp_path, labels).draw(np.random.default_rng(0))
    with pytest.raises(TrainingError, match="no label reaches min_rank = 5"):
        LabeledPhotoFolder(tmp_path, labels, 5.0)
