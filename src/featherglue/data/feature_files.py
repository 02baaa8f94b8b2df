"""Keypoints and descriptors of any extractor, from HDF5 files in the layout of hloc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import MissingExtraError, TrainingError, counted

if TYPE_CHECKING:
    import h5py

Float = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredFeatures:
    """Features of one image.

    Attributes:
        keypoints: (N, 2) float32 xy, pixels of the image; the center of the top-left pixel is
            (0, 0).
        descriptors: (N, D) float32, L2-normalized.
    """

    keypoints: Float
    descriptors: Float


class HDF5File:
    """An HDF5 file that workers can share: each process opens it for itself.

    Raises:
        MissingExtraError: h5py is not installed, when the file is opened.
        TrainingError: the file cannot be read, when it is opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._opened: tuple[int, h5py.File] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def file(self) -> h5py.File:
        """The open file of this process."""
        try:
            import h5py
        except ModuleNotFoundError:
            raise MissingExtraError("a feature file", "hloc") from None
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), h5py.File(self.path, "r")
            except OSError as error:
                raise TrainingError(f"{self.path}: cannot be read as HDF5 ({error})") from None
        return self._opened[1]


class FeatureFile(HDF5File):
    """A feature file of hloc: a group for each image name, with `keypoints` and `descriptors`.

    Args:
        path: the HDF5 file. `keypoints` are (N, 2) and `descriptors` (D, N), of any float type.

    Attributes:
        names: names of the images.
        descriptor_dim: D.

    Raises:
        MissingExtraError: h5py is not installed.
        TrainingError: the file cannot be read or holds no features.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        found: list[str] = []

        def collect(name: str, item: Any) -> None:
            if hasattr(item, "keys") and {"keypoints", "descriptors"} <= set(item.keys()):
                found.append(name)

        self.file().visititems(collect)
        if not found:
            raise TrainingError(f"{path}: no group with keypoints and descriptors")
        self.names = frozenset(found)
        self.descriptor_dim = int(self.file()[found[0]]["descriptors"].shape[0])

    def check_names(self, names: Iterable[str]) -> None:
        """Raise TrainingError if the file lacks the features of an image."""
        missing = sorted(set(names) - self.names)
        if missing:
            raise TrainingError(
                f"{self.path}: no features of {counted(len(missing), 'photograph')}, such as "
                f"{missing[0]}"
            )

    def num_keypoints(self, name: str) -> int:
        """Number of keypoints of an image. Raises KeyError if the file has none of it."""
        return int(self.file()[name]["keypoints"].shape[0])

    def keypoints(self, name: str) -> Float:
        """The keypoints of an image, as in `StoredFeatures`.

        Raises:
            KeyError: the file has none of this image.
            TrainingError: they are not (N, 2).
        """
        keypoints = np.asarray(self.file()[name]["keypoints"], np.float32)
        if keypoints.ndim != 2 or keypoints.shape[1] != 2:
            raise TrainingError(f"{self.path}: {name} has keypoints {keypoints.shape}, not (N, 2)")
        return keypoints

    def __getitem__(self, name: str) -> StoredFeatures:
        """The features of an image.

        Raises:
            KeyError: the file has none of this image.
            TrainingError: their shapes do not fit each other.
        """
        group = self.file()[name]
        keypoints = np.asarray(group["keypoints"], np.float32)
        descriptors = np.asarray(group["descriptors"], np.float32).T
        if keypoints.shape != (len(descriptors), 2) or descriptors.shape[1] != self.descriptor_dim:
            raise TrainingError(
                f"{self.path}: {name} has keypoints {keypoints.shape} and descriptors "
                f"{descriptors.shape[::-1]}, not (N, 2) and ({self.descriptor_dim}, N)"
            )
        length = np.linalg.norm(descriptors, axis=1, keepdims=True)
        return StoredFeatures(
            keypoints=keypoints, descriptors=descriptors / np.maximum(length, 1e-12)
        )
