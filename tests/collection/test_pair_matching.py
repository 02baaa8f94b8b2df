"""Matching of many pairs: resumed runs, unreadable images, file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from featherglue.collection import pair_matching as collection
from featherglue.collection.pair_matching import (
    PairOutcome,
    match_pairs,
    output_names,
    sequence_pairs,
)
from featherglue.errors import ImageError, OutputError, StoredFileWarning, UsageError
from featherglue.io.pairs import Pair
from featherglue.session import Session
from featherglue.types import Features


@pytest.fixture
def images(tmp_path: Path, gray: np.ndarray) -> Path:
    """a.png, b.png, c.png and sub/d.png: crops of one photograph."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a", "b", "c", "sub/d")):
        cv2.imwrite(str(folder / f"{name}.png"), gray[8 * i : 200 + 8 * i, 16 * i : 240 + 16 * i])
    return folder


def pair(first: str, second: str, *rotations: int) -> Pair:
    rotation0, rotation1 = rotations or (0, 0)
    return Pair(name0=first, name1=second, rotation0=rotation0, rotation1=rotation1)


def run(
    session: Session, pairs: list[Pair], images: Path, output: Path, **options: Any
) -> list[PairOutcome]:
    return list(match_pairs(session, pairs, images, output, **options))


class Counting(Session):
    """Counts extractions."""

    def __init__(self, session: Session) -> None:
        self.__dict__ = dict(session.__dict__)
        self.extracted = 0

    def extract(self, image: object) -> Features:
        self.extracted += 1
        return super().extract(image)  # type: ignore[arg-type]


def test_a_folder_is_a_sequence(images: Path, tmp_path: Path) -> None:
    pairs = sequence_pairs(images)
    assert [(p.name0, p.name1, p.line) for p in pairs] == [
        ("a.png", "b.png", 1),
        ("b.png", "c.png", 2),
    ]
    with pytest.raises(ImageError, match="holds one image"):
        sequence_pairs(images / "sub")
    with pytest.raises(ImageError, match="no such folder"):
        sequence_pairs(tmp_path / "nowhere")


def test_results_are_those_of_the_session(session: Session, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out"
    pairs = [pair("a.png", "b.png"), pair("a.png", "sub/d.png")]
    outcomes = run(session, pairs, images, output)
    for asked, outcome in zip(pairs, outcomes, strict=True):
        assert outcome.pair is asked
        assert outcome.error == ""
        assert outcome.result is not None
        expected = session(images / asked.name0, images / asked.name1)
        assert len(expected.matches) > 50
        with np.load(outcome.output) as saved:
            np.testing.assert_array_equal(saved["keypoints0"], expected.features0.keypoints)
            np.testing.assert_array_equal(saved["points1"], expected.matches.points1)
            np.testing.assert_array_equal(saved["indices"], expected.matches.indices)
        assert outcome.picture is not None
        assert cv2.imread(str(outcome.picture)) is not None
    assert sorted(path.name for path in output.iterdir()) == [
        "a_b_matches.npz",
        "a_b_matches.png",
        "a_sub-d_matches.npz",
        "a_sub-d_matches.png",
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a.jpg", "b.png", "a_b_matches.npz"),
        ("x/y/a.jpg", "x/b.jpg", "x-y-a_x-b_matches.npz"),
        ("../a.v2.jpg", "./b.jpg", "a.v2_b_matches.npz"),
        ("/abs/a.jpg", "b", "abs-a_b_matches.npz"),
    ],
)
def test_output_names(first: str, second: str, expected: str) -> None:
    (name,) = output_names([pair(first, second)])
    assert name == expected
    assert "/" not in name


def test_an_interrupted_run_resumes(session: Session, images: Path, tmp_path: Path) -> None:
    pairs = [pair("a.png", "b.png"), pair("b.png", "c.png"), pair("a.png", "c.png")]
    output = tmp_path / "out"
    started = match_pairs(session, pairs, images, output)
    next(started)
    started.close()  # as if interrupted after the first pair
    before = {p.name: p.stat().st_mtime_ns for p in output.glob("*.npz")}
    assert list(before) == ["a_b_matches.npz"]
    outcomes = run(session, pairs, images, output)
    assert [outcome.result is None for outcome in outcomes] == [True, False, False]
    assert all(outcome.error == "" for outcome in outcomes)
    assert (output / "a_b_matches.npz").stat().st_mtime_ns == before["a_b_matches.npz"]
    again = Counting(session)
    assert all(o.result is None for o in run(again, pairs, images, output))
    assert again.extracted == 0
    outcomes = run(session, pairs, images, output, overwrite=True)
    assert all(outcome.result is not None for outcome in outcomes)


@pytest.mark.parametrize("damage", [b"", b"PK", b"\x93NUMPY\x01\x00", "one flipped bit"])
def test_damaged_result_is_computed_again(
    session: Session, images: Path, tmp_path: Path, damage: bytes | str
) -> None:
    pairs = [pair("a.png", "b.png")]
    (first,) = run(session, pairs, images, tmp_path)
    if isinstance(damage, str):
        data = bytearray(first.output.read_bytes())
        data[data.index(b"keypoints0.npy") + 300] ^= 1
        damage = bytes(data)
    first.output.write_bytes(damage)
    with pytest.warns(StoredFileWarning, match=r"matches.npz: damaged .* matched again"):
        (again,) = run(session, pairs, images, tmp_path)
    assert again.result is not None
    with np.load(again.output) as saved:
        np.testing.assert_array_equal(saved["indices"], again.result.matches.indices)


def test_one_unusable_name_fails_alone(session: Session, images: Path, tmp_path: Path) -> None:
    long = "x" * 300
    pairs = [
        pair(first, "b.png") for first in (".", "/", "..", long, f"{long}/a.png", "a\0.png", "\n")
    ]
    outcomes = run(session, [*pairs, pair("a.png", "b.png")], images, tmp_path)
    assert all(outcome.error for outcome in outcomes[:-1])
    assert outcomes[-1].result is not None


def test_long_names_are_shortened(tmp_path: Path) -> None:
    pairs = [pair(f"{'é' * 120}{i}.png", f"{'é' * 120}{j}.png") for i in "ab" for j in "ab"]
    names = output_names(pairs)
    assert len(set(names)) == 4
    for name in names:
        (tmp_path / f".{name}.1234567.partial").touch()  # the name while it is written


def test_outputs_stay_out_of_the_images(session: Session, images: Path) -> None:
    before = sorted(images.rglob("*"))
    with pytest.raises(UsageError, match="output_folder"):
        run(session, [pair("a.png", "b.png")], images, images / "sub" / "..")
    assert sorted(images.rglob("*")) == before


def test_a_picture_that_is_missing_is_drawn(session: Session, images: Path, tmp_path: Path) -> None:
    pairs = [pair("a.png", "b.png")]
    run(session, pairs, images, tmp_path, pictures=False)
    (drawn,) = run(session, pairs, images, tmp_path)
    assert drawn.picture is not None and drawn.picture.is_file()
    (there,) = run(session, pairs, images, tmp_path)
    assert there.result is None


def test_few_large_images_are_stored(
    session: Session, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "_MAX_STORED_BYTES", 50_000)  # one image
    counting = Counting(session)
    store = collection._FeatureStore(counting, images, None)
    for name in ("a.png", "b.png", "b.png", "a.png", "c.png", "b.png"):
        store.get(name, 0)
    assert counting.extracted == 4


def test_an_image_in_many_pairs_is_extracted_once(
    session: Session, images: Path, tmp_path: Path
) -> None:
    counting = Counting(session)
    names = ["a.png", "b.png", "c.png", "sub/d.png"]
    pairs = [pair(x, y) for i, x in enumerate(names) for y in names[i + 1 :]]
    run(counting, pairs, images, tmp_path / "out", pictures=False)
    assert counting.extracted == 4


def test_a_bad_image_is_reported_and_the_others_go_on(
    session: Session, images: Path, tmp_path: Path
) -> None:
    (images / "bad.png").write_bytes((images / "a.png").read_bytes()[:300])
    pairs = [
        pair("a.png", "bad.png"),
        pair("missing.png", "a.png"),
        pair("bad.png", "b.png"),
        pair("a.png", "b.png"),
    ]
    outcomes = run(session, pairs, images, tmp_path / "out")
    assert [bool(outcome.error) for outcome in outcomes] == [True, True, True, False]
    assert "bad.png" in outcomes[0].error
    assert "no such file" in outcomes[1].error
    assert outcomes[2].error == outcomes[0].error
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".npz", ".png"]


def test_images_are_rotated_as_the_list_says(
    session: Session, images: Path, tmp_path: Path, gray: np.ndarray
) -> None:
    upright = gray[:200, :240]
    for turns in (1, 2, 3):
        cv2.imwrite(str(images / f"turned{turns}.png"), np.rot90(upright, -turns))
    expected = session(upright, upright).matches
    for turns in (1, 2, 3):
        (outcome,) = run(
            session,
            [pair("a.png", f"turned{turns}.png", 0, turns)],
            images,
            tmp_path / f"out{turns}",
        )
        assert outcome.result is not None
        assert outcome.result.features1.image_size == (240, 200)
        np.testing.assert_array_equal(outcome.result.matches.points1, expected.points1)


def test_one_image_in_two_rotations(session: Session, images: Path, tmp_path: Path) -> None:
    counting = Counting(session)
    pairs = [pair("a.png", "b.png", 0, 0), pair("c.png", "b.png", 0, 1)]
    outcomes = run(counting, pairs, images, tmp_path / "out")
    assert counting.extracted == 4
    sizes = [o.result.features1.image_size for o in outcomes if o.result is not None]
    assert sizes == [(240, 200), (200, 240)]


@pytest.mark.parametrize(
    "pairs",
    [
        [pair("a.png", "b.png"), pair("a.jpg", "b.png")],
        [pair("a.png", "b.png"), pair("a.png", "b.png", 0, 1)],
        [pair("a.png", "sub/d.png"), pair("a.png", "sub-d.png")],
    ],
    ids=["suffix", "rotation", "folder"],
)
def test_similar_pairs_of_a_list_have_files_of_their_own(
    pairs: list[Pair], session: Session, images: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(images / "a.jpg"), np.full((64, 64), 50, np.uint8))
    cv2.imwrite(str(images / "sub-d.png"), np.full((64, 64), 50, np.uint8))
    outcomes = run(session, pairs, images, tmp_path / "out")
    assert all(outcome.result is not None for outcome in outcomes)
    assert outcomes[0].output != outcomes[1].output
    counts = [len(np.load(outcome.output)["points0"]) for outcome in outcomes]
    assert counts == [len(o.result.matches) for o in outcomes if o.result is not None]
    again = run(session, pairs, images, tmp_path / "out")
    assert [outcome.output for outcome in again] == [outcome.output for outcome in outcomes]
    assert all(outcome.result is None and not outcome.error for outcome in again)


def test_where_nothing_can_be_written(session: Session, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OutputError, match="cannot be"):
            run(session, [pair("a.png", "b.png")], images, output)


def test_pictures_can_be_left_out(session: Session, images: Path, tmp_path: Path) -> None:
    (outcome,) = run(session, [pair("a.png", "b.png")], images, tmp_path / "o", pictures=False)
    assert outcome.picture is None
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["a_b_matches.npz"]


def test_equal_names_in_another_folder_are_matched_again(
    session: Session, images: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for first, second in (("a", "b"), ("b", "c")):
        cv2.imwrite(str(other / f"{first}.png"), cv2.imread(str(images / f"{second}.png")))
    pairs = [pair("a.png", "b.png")]
    run(session, pairs, images, tmp_path / "out")
    (again,) = run(session, pairs, other, tmp_path / "out")
    assert again.result is not None
    (unchanged,) = run(session, pairs, other, tmp_path / "out")
    assert unchanged.result is None and not unchanged.error


def test_masks_are_rotated_with_their_images(
    session: Session, images: Path, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((200, 240), np.uint8)
    mask[:, 120:] = 255
    cv2.imwrite(str(masks / "a.png.png"), mask)
    (outcome,) = run(session, [pair("a.png", "b.png", 1, 0)], images, tmp_path / "out", masks=masks)
    assert outcome.result is not None
    masked, whole = outcome.result.features0, outcome.result.features1
    assert masked.keypoints[:, 1].max() <= 119.5  # a quarter turn brings the right side up
    assert whole.keypoints[:, 0].min() < 100
    cv2.imwrite(str(masks / "a.png.png"), 255 - mask)
    (again,) = run(session, [pair("a.png", "b.png", 1, 0)], images, tmp_path / "out", masks=masks)
    assert again.result is not None
    assert again.result.features0.keypoints[:, 1].min() >= 119.5
