"""Pair lists in SuperGlue's format."""

from __future__ import annotations

import io
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


@pytest.mark.parametrize(
    "line",
    [
        '"a b.jpg" "c d.jpg"',
        "'a b.jpg' 'c d.jpg'",
        r"a\ b.jpg c\ d.jpg",
        "a b.jpg\tc d.jpg",
        "a b.jpg,c d.jpg",
        '"a b.jpg","c d.jpg"',
        '"a b.jpg", "c d.jpg"',
        '"a b.jpg" "c d.jpg"  # a comment',
        '"a b.jpg","c d.jpg"  # a comment',
    ],
)
def test_paths_with_spaces(tmp_path: Path, line: str) -> None:
    (found,) = read_pairs(write(tmp_path, f"# list\n{line}\n"))
    assert (found.name0, found.name1, found.line) == ("a b.jpg", "c d.jpg", 2)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (r"sub\a.jpg sub\b.jpg", (r"sub\a.jpg", r"sub\b.jpg")),
        ("it's.jpg it's2.jpg", ("it's.jpg", "it's2.jpg")),
        ('say\\"hi\\".jpg b.jpg', ('say"hi".jpg', "b.jpg")),
        ("'#1.jpg' b.jpg # 2", ("#1.jpg", "b.jpg")),
        ("a#1.jpg b.jpg", ("a#1.jpg", "b.jpg")),
        ("a,1.jpg b.jpg", ("a,1.jpg", "b.jpg")),
        ("a.jpg, b.jpg", ("a.jpg", "b.jpg")),
        ("a.jpg,b.jpg", ("a.jpg", "b.jpg")),
    ],
)
def test_special_characters_in_paths(tmp_path: Path, line: str, names: tuple[str, str]) -> None:
    (found,) = read_pairs(write(tmp_path, f"{line}\n"))
    assert (found.name0, found.name1) == names


def test_csv_files_with_headings_and_rotations(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("image0,image1,rotation0,rotation1\na b.jpg,c.jpg,1,0\nd.jpg,e.jpg,0,2\n")
    first, second = read_pairs(path)
    assert (first.name0, first.name1, first.rotation0, first.line) == ("a b.jpg", "c.jpg", 1, 2)
    assert (second.name0, second.rotation1) == ("d.jpg", 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_bytes(f"größe.jpg b.jpg{end}c.jpg d.jpg{end}".encode(encoding))
    first, second = read_pairs(path)
    assert (first.name0, second.name1, second.line) == ("größe.jpg", "d.jpg", 2)


def test_a_stream(tmp_path: Path) -> None:
    (found,) = read_pairs(io.BytesIO(b"a.jpg b.jpg\n"))
    assert found.name1 == "b.jpg"


def test_numbers_that_are_too_large(tmp_path: Path) -> None:
    with pytest.raises(PairListError, match="K0 is singular"):
        read_pairs(write(tmp_path, full(K=[1e308] * 9)))
    with pytest.raises(PairListError, match="line 1") as caught:
        read_pairs(write(tmp_path, f"a.jpg b.jpg {'9' * 10_000} 0"))
    assert len(str(caught.value)) < 500
