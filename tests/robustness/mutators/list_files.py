"""Pair lists and lists of homographies: damaged, in every encoding, with hostile names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from hypothesis import strategies as st

from featherglue.collection.pair_matching import match_pairs, output_names
from featherglue.errors import FeatherglueError
from featherglue.evaluation.pair_lists import read_homography_pairs, read_pose_pairs
from featherglue.io.pairs import read_pairs
from mutators.byte_edits import Damaged, damaged
from mutators.mutator import Mutator
from mutators.stub_session import StubSession

_K = "500 0 320 0 500 240 0 0 1"
_T = "1 0 0 0.5 0 1 0 0 0 0 1 0 0 0 0 1"
_TEXT = f"""# a list
a.png b.png
"a b.png" 'c d.png'  # names with spaces
sub/a.png b.png 1 3
a.png b.png 0 0 {_K} {_K} {_T}
a.png b.png 0 2 {_K} {_K} {_T}
"""
_HOMOGRAPHIES = "a.png 1 0 5 0 1 -3 0 0 1\nb.png 0.9 0.1 5 -0.1 0.9 -3 1e-4 0 1\n"
_CSV = "image0,image1\na b.png,c.png\nsub/a.png,b.png\n"

SEEDS: dict[str, Callable[[], bytes]] = {
    "spaces": _TEXT.encode,
    "tabs": partial(_TEXT.replace(" ", "\t").encode),
    "csv": _CSV.encode,
    "utf16": partial(_TEXT.encode, "utf-16"),
    "utf16-plain": partial(_TEXT.encode, "utf-16-be"),
    "windows": partial(_TEXT.replace("\n", "\r\n").encode, "utf-8-sig"),
    "poses": f"a.png b.png 0 0 {_K} {_K} {_T}\n".encode,
    "homographies": _HOMOGRAPHIES.encode,
}
WORDS = st.sampled_from(
    (
        *(b" ", b"\t", b"\n", b"\r", b",", b'"', b"'", b"\\", b"#", b"\0", b"\xff", b"\xc3\xa9"),
        *(b"..", b"/", b".", b"~", b"-1", b"1e400", b"nan", b"9" * 5000, b"x" * 300, b"%d"),
    )
)


def _read(case: Damaged, folder: Path) -> None:
    """Read the list as each kind of list; every pair gets a name of its own that can be written."""
    path = folder / ("list.csv" if case.seed == "csv" else "list.txt")
    path.write_bytes(case.data())
    results = []
    for read in (
        read_pairs,
        partial(read_pose_pairs, folder),
        partial(read_homography_pairs, folder, size=(640, 480)),
    ):
        try:
            results.append(read(path))
        except FeatherglueError as error:
            refused = error
    if not results:
        raise refused
    pairs = results[0] if isinstance(results[0], list) else []
    if pairs and hasattr(pairs[0], "name0"):
        for name in output_names(pairs):
            (folder / name).touch()


@dataclass(frozen=True)
class Names:
    """Names of a pair, and whether the image exists."""

    pairs: tuple[tuple[str, str], ...]


NAMES = st.sampled_from(
    (".", "..", "/", "", "a.png", "A.PNG", "missing.png", "sub", "x" * 300, "é" * 130, "a\nb.png")
) | st.text(max_size=40)


def _match(case: Names, folder: Path) -> None:
    """Match a list in which the names of some pairs are hostile: the other pairs succeed."""
    images = folder / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(images / name), np.full((32, 40), 90, np.uint8))
    quoted = [
        " ".join('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in pair)
        for pair in (*case.pairs, ("a.png", "b.png"))
    ]
    (folder / "list.txt").write_bytes("\n".join(quoted).encode("utf-8", "replace"))
    pairs = read_pairs(folder / "list.txt")
    outcomes = list(match_pairs(StubSession(), pairs, images, folder / "out", pictures=False))
    assert len(outcomes) == len(pairs)
    assert outcomes[-1].output.is_file()
    again = list(match_pairs(StubSession(), pairs, images, folder / "out", pictures=False))
    assert all(outcome.result is None for outcome in again)


LISTS = Mutator(
    name="lists", cases=damaged(SEEDS, WORDS | st.binary(max_size=3)), use=_read, goal=2000
)
NAMED = Mutator(
    name="names",
    cases=st.lists(st.tuples(NAMES, NAMES), max_size=4).map(lambda pairs: Names(tuple(pairs))),
    use=_match,
    num_tested=40,
)
