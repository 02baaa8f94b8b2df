"""Lists and folders of pairs: drawn, read, malformed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import SIFT, SIZE, K, homographies
from scenes import pair_line, write_sequence

from featherglue.errors import ImageError, PairListError
from featherglue.evaluation import (
    HomographyConfig,
    evaluate,
)
from featherglue.evaluation.pair_lists import (
    read_homography_pairs,
    read_hpatches_pairs,
    read_pose_pairs,
)


def test_folder_without_a_list_has_random_homographies(photos: Path) -> None:
    first, again = (homographies(photos, None).pairs() for _ in range(2))
    assert [task.name for task in first] == ["a.png", "b.png", "c.png"]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.H, b.H)
    assert not np.allclose(first[0].H, first[1].H)
    other = homographies(photos, None, config=HomographyConfig(seed=5)).pairs()
    assert not np.allclose(first[0].H, other[0].H)
    assert evaluate(SIFT, homographies(photos, None)).summary["pairs"] == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png 1 0 0 0 1 0 0 0", "line 2: 9 tokens"),
        ("a.png 1 0 0 0 1 0 0 0 1 1", "line 2: 11 tokens"),
        ("a.png 1 0 0 0 one 0 0 0 1", "line 2: .*'one'"),
        ("a.png 1 0 0 0 nan 0 0 0 1", "line 2: .*finite"),
        ("a.png 1 0 0 1 0 0 0 0 1", "line 2: H is singular"),
        ("a.png 0 0 0 0 0 0 0 0 0", "line 2: H is singular"),
    ],
)
def test_malformed_homography_lists(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(PairListError, match=f"list.txt, {message}"):
        read_homography_pairs(tmp_path, path, SIZE)


def test_empty_and_missing_lists(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n# nothing\n")
    for name, message in (("list.txt", "no homographies"), ("none.txt", "no such file")):
        with pytest.raises(PairListError, match=message):
            read_homography_pairs(tmp_path, tmp_path / name, SIZE)
    with pytest.raises(ImageError, match="no such folder"):
        read_homography_pairs(tmp_path / "none", tmp_path / "list.txt", SIZE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0\n0 1\n0 0 1\n", "H_1_3, line 2: 2 numbers"),
        ("1 0 0\n0 1 0\n", "H_1_3, line 2: 2 lines"),
        ("1 0 0\n0 x 0\n0 0 1\n", "H_1_3, line 2: .*'x'"),
        ("1 0 0\n0 0 0\n0 0 1\n", "H_1_3.*singular"),
        (None, "H_1_3: no such file"),
    ],
)
def test_malformed_hpatches(tmp_path: Path, text: str | None, message: str) -> None:
    write_sequence(tmp_path / "i_x", np.eye(3), 0)
    path = tmp_path / "i_x" / "H_1_3"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(PairListError, match=message):
        read_hpatches_pairs(tmp_path)


def test_hpatches_without_sequences(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ImageError):
            read_hpatches_pairs(folder)


def test_malformed_pose_lists(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    mirrored, stretched = np.diag([1.0, 1, -1, 1]), np.diag([2.0, 1, 1, 1])
    for line, message in (
        ("a.png b.png\n", "line 1: no intrinsics and pose"),
        ("a.png b.png 0 0 1 2\n", "line 1: 6 tokens"),
        (pair_line("a", "b", K, mirrored), "line 1: .*not a rotation"),
        (pair_line("a", "b", K, stretched), "line 1: .*not a rotation"),
        (pair_line("a", "b", K * 0, np.eye(4)), "line 1: K0 is singular"),
    ):
        path.write_text(line)
        with pytest.raises(PairListError, match=message):
            read_pose_pairs(tmp_path, path)
