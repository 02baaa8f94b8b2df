"""Matches between the keypoints of two images, from HDF5 files in the layout of hloc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featherglue.data.feature_files import HDF5File
from featherglue.errors import TrainingError

if TYPE_CHECKING:
    import h5py


class MatchFile(HDF5File):
    """A match file of hloc: a group for each pair of image names, with `matches0`.

    hloc writes each `/` of a name as `-`.

    Args:
        path: the HDF5 file. `matches0` is (N0,), the index of the match of each keypoint of the
            first image, −1 for none.
        names: names of the images that can be matched. Pairs with another image are ignored.

    Attributes:
        pairs: names of the two images of each pair.

    Raises:
        MissingExtraError: h5py is not installed.
        TrainingError: the file cannot be read or holds no matches between the images of `names`.
    """

    def __init__(self, path: str | os.PathLike[str], names: Iterable[str]) -> None:
        super().__init__(path)
        known = {name.replace("/", "-"): name for name in names}
        self.pairs: list[tuple[str, str]] = []

        def note(name: str, item: Any) -> None:
            parts = name.split("/")
            if len(parts) == 3 and parts[2] == "matches0" and {*parts[:2]} <= known.keys():
                self.pairs.append((known[parts[0]], known[parts[1]]))

        self.file().visititems(note)
        if not self.pairs:
            raise TrainingError(f"{path}: no matches0 of two of the photographs")

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """The matches of pair `index`: (M, 2) int64, indices of the keypoints of both images."""
        name0, name1 = (name.replace("/", "-") for name in self.pairs[index])
        group: h5py.Group = self.file()[f"{name0}/{name1}"]
        matches = np.asarray(group["matches0"], np.int64)
        if matches.ndim != 1:
            raise TrainingError(
                f"{self.path}: matches0 of {name0} and {name1} must be (N,), not {matches.shape}"
            )
        first = np.flatnonzero(matches >= 0)
        return np.stack((first, matches[first]), 1)

    def check_indices(self, name: str, indices: NDArray[np.int64], count: int) -> None:
        """Raise TrainingError if a match has a keypoint that an image does not have.

        Args:
            name: name of the image.
            indices: (M,) keypoints of the image in matches.
            count: number of keypoints of the image.
        """
        if indices.max(initial=-1) >= count:
            raise TrainingError(
                f"{self.path}: a match of {name} has keypoint {indices.max()}, but the feature "
                f"file has {count} keypoints of it"
            )
