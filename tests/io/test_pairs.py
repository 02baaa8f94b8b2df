"""Pair lists in SuperGlue's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featherglue.errors import PairListError
from featherglue.io.pairs import read_pairs

K0 = [500.5, 0, 320, 0, 501, 240, 0, 0, 1]
K1 = [400, 0, 160, 0, 401, 120, 0, 0, 1]
T = [1, 0, 0, 0.25, 0, 1, 0, -0.5, 0, 0, 1, 1e-3, 0, 0, 0, 1]


def full(*, rotations: str = "1 3", K: list[float] = K0) -> str:
    return f"a/b.jpg c.png {rotations} " + " ".join(map(str, [*K, *K1, *T]))


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_three_kinds_of_lines(tmp_path: Path) -> None:
    text = f"# a comment\n\nx.jpg y.jpg\n  u.jpg   v.jpg\t2 0  \n{full()}\n"
    short, turned, complete = read_pairs(write(tmp_path, text))
    assert (short.name0, short.name1, short.line) == ("x.jpg", "y.jpg", 3)
    assert (short.rotation0, short.rotation1) == (0, 0)
    assert short.K0 is short.K1 is short.T_0to1 is None
    assert (turned.name0, turned.rotation0, turned.rotation1, turned.line) == ("u.jpg", 2, 0, 4)
    assert (complete.name0, complete.rotation0, complete.rotation1) == ("a/b.jpg", 1, 3)
    assert complete.K0 is not None
    assert complete.K1 is not None
    assert complete.T_0to1 is not None
    np.testing.assert_array_equal(complete.K0, np.reshape(K0, (3, 3)))
    np.testing.assert_array_equal(complete.K1, np.reshape(K1, (3, 3)))
    np.testing.assert_array_equal(complete.T_0to1, np.reshape(T, (4, 4)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("only.jpg", ": 1 tokens"),
        ("a.jpg b.jpg 0", ": 3 tokens"),
        (full() + " 7", ": 39 tokens"),
        ("a.jpg b.jpg 0 1.5", "1.5"),
        ("a.jpg b.jpg 4 0", "rotations must be 0, 1, 2 or 3"),
        ("a.jpg b.jpg 0 -1", "rotations"),
        (full().replace("500.5", "many"), "many"),
        (full().replace("500.5", "nan"), "must be finite"),
        (full().replace("500.5", "inf"), "must be finite"),
        (full(K=[0.0] * 9), "K0 is singular"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, f"good.jpg too.jpg\n\n{line}\n")
    with pytest.raises(PairListError, match=message) as caught:
        read_pairs(path)
    assert f"{path}, line 3" in str(caught.value)


def test_files_without_a_pair_list_are_rejected(tmp_path: Path) -> None:
    binary = tmp_path / "image.jpg"
    binary.write_bytes(bytes(range(128, 256)))
    for path, message in (
        (tmp_path / "missing.txt", "no such file"),
        (tmp_path, "cannot be read"),
        (binary, "cannot be read as text"),
        (write(tmp_path, "# only a comment\n\n"), "no pairs"),
    ):
        with pytest.raises(PairListError, match=message):
            read_pairs(path)


def test_usage_error_has_exit_code_2(tmp_path: Path) -> None:
    with pytest.raises(PairListError) as caught:
        read_pairs(tmp_path / "missing.txt")
    assert caught.value.exit_code == 2


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes("\ufeffa.jpg b.jpg\n".encode())  # as Windows editors write it
    assert read_pairs(path)[0].name0 == "a.jpg"
