"""Visual vocabularies: from the local descriptors of an image to one global descriptor.

The local descriptors are rotated to their principal axes. The global descriptor has a part for
each center of the vocabulary: the sum of the directions from the center to all descriptors
(triangulation embedding: Jégou and Zisserman 2014). The first principal axes of these sums say
little about the place and are dropped. The next ones are whitened (Jégou and Chum 2012).

A vocabulary fits the descriptors of one model only and holds the fingerprint of its weights. Those
of the shipped models are in the folder `vocabularies`; that of another model is the file
`vocabulary.safetensors` in the folder of the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from featherglue.errors import MissingExtraError, StoreError, UsageError
from featherglue.fingerprint import array_fingerprint
from featherglue.io.files import atomic_write

Float = NDArray[np.float32]
VOCABULARY = "vocabulary.safetensors"
_FORMAT = "featherglue vocabulary 1"
_MIN_SQUARE = 1e-6  # squared distance of a local descriptor from a center
_STEPS = 127  # largest of the integers that store the projection
_HALVES = ("rotation", "centers", "mean")  # stored in float16
_SHAPES = {
    "rotation": ("descriptor size", "rotated size"),
    "centers": ("number of centers", "rotated size"),
    "mean": ("aggregate size",),
    "projection": ("aggregate size", "size"),
    "scales": ("size",),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """A visual vocabulary.

    Attributes:
        weights: fingerprint of the weights of the model; "" if it is unknown.
        rotation: (D, R) float32, principal axes of the local descriptors.
        centers: (K, R) float32.
        mean: (K · R,) float32, of the aggregated descriptors.
        projection: (K · R, P) int8, principal axes of the aggregated descriptors.
        scales: (P,) float32, factors of the axes, which whiten the result.
    """

    weights: str
    rotation: Float
    centers: Float
    mean: Float
    projection: NDArray[np.int8]
    scales: Float

    @property
    def size(self) -> int:
        """Number of values of a global descriptor."""
        return len(self.scales)

    def describe(self, descriptors: NDArray[np.generic]) -> Float:
        """The global descriptor of an image.

        Args:
            descriptors: (N, D), local descriptors of unit length.

        Returns:
            (P,) float32 of unit length; zeros without local descriptors.

        Raises:
            UsageError: local descriptors of another size.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != len(self.rotation):
            raise UsageError(
                f"descriptors must be (N, {len(self.rotation)}), not {descriptors.shape}"
            )
        if not len(descriptors):
            return np.zeros(self.size, np.float32)
        aggregated = aggregate(descriptors.astype(np.float32) @ self.rotation, self.centers)
        projected = (aggregated - self.mean) @ self.projection.astype(np.float32)
        return unit(projected * self.scales)

    def fingerprint(self) -> str:
        """Fingerprint of all arrays."""
        return array_fingerprint(self._arrays())

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {name: getattr(self, name) for name in _SHAPES}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as safetensors; the axes, centers and mean in float16.

        Raises:
            OutputError: the file cannot be written.
        """
        metadata = {"format": _FORMAT, "weights": self.weights}
        # safetensors writes the memory of an array, so that its order counts.
        stored = {
            name: np.ascontiguousarray(array, np.float16 if name in _HALVES else array.dtype)
            for name, array in self._arrays().items()
        }
        with atomic_write(path) as file:
            file.write(save_tensors(stored, metadata))


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read a vocabulary.

    Raises:
        StoreError: the file is missing, damaged, or no vocabulary.
    """
    try:
        data = Path(path).read_bytes()
        arrays = load_tensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, ValueError) as error:
        raise StoreError(f"{path}: is damaged ({error})") from None
    metadata = header.get("__metadata__", {})
    if metadata.get("format") != _FORMAT or arrays.keys() != _SHAPES.keys():
        raise StoreError(f"{path}: is no vocabulary of this version; train it again")
    sizes: dict[str, int] = {"aggregate size": arrays["centers"].size}
    for name, axes in _SHAPES.items():
        found = arrays[name].shape
        expected = tuple(sizes.setdefault(axis, n) for axis, n in zip(axes, found, strict=False))
        if found != expected or len(axes) != len(found):
            raise StoreError(f"{path}: is damaged (shape {found} of {name})")
    return Vocabulary(
        weights=str(metadata.get("weights", "")),
        rotation=arrays["rotation"].astype(np.float32),
        centers=arrays["centers"].astype(np.float32),
        mean=arrays["mean"].astype(np.float32),
        projection=arrays["projection"].astype(np.int8),
        scales=arrays["scales"].astype(np.float32),
    )


def train_vocabulary(
    images: Iterable[NDArray[np.generic]],
    weights: str,
    *,
    num_centers: int = 64,
    rotated_size: int = 32,
    size: int = 256,
    num_dropped: int = 32,
    num_samples: int = 400_000,
    seed: int = 0,
) -> Vocabulary:
    """Train a vocabulary.

    Args:
        images: local descriptors (N, D) of each training image, of unit length. They are kept in
            memory in float16.
        weights: fingerprint of the weights of the model.
        num_centers: number of centers, K.
        rotated_size: number of principal axes of the local descriptors, R.
        size: number of values of a global descriptor, P.
        num_dropped: number of the first principal axes that are dropped.
        num_samples: approximate number of local descriptors, evenly from all images, from which the
            axes and the centers are computed.
        seed: of the random choices.

    Raises:
        MissingExtraError: SciPy is not installed.
        UsageError: too few images or descriptors.
    """
    rng = np.random.default_rng(seed)
    kept = [np.asarray(image, np.float16) for image in images if len(image)]
    if len(kept) < 2 * size:
        raise UsageError(
            f"a vocabulary of size {size} needs {2 * size} images with features, not {len(kept)}"
        )
    per_image = max(num_samples // len(kept), 1)
    samples = np.concatenate(
        [image[rng.permutation(len(image))[:per_image]] for image in kept]
    ).astype(np.float32)
    if len(samples) < 2 * num_centers:
        raise UsageError(f"{num_centers} centers need more than {len(samples)} local descriptors")
    rotation = principal_axes(samples, rotated_size)[0]
    centers = _centers(samples @ rotation, num_centers, seed)
    aggregated = np.stack(
        [aggregate(image.astype(np.float32) @ rotation, centers) for image in kept]
    )
    mean = aggregated.mean(0)
    axes, variances = principal_axes(aggregated - mean, num_dropped + size)
    axes, variances = axes[:, num_dropped:], variances[num_dropped:]
    # The variances of the last axes are underestimated: shrink all of them toward their mean.
    shrunk = 0.9 * variances + 0.1 * variances.mean()
    steps = np.abs(axes).max(0) / _STEPS
    return Vocabulary(
        weights=weights,
        rotation=rotation,
        centers=centers,
        mean=mean,
        projection=np.round(axes / steps).astype(np.int8),
        scales=(steps / np.sqrt(shrunk)).astype(np.float32),
    )


def aggregate(descriptors: Float, centers: Float) -> Float:
    """Sum the directions from each center (K, R) to the local descriptors (N, R).

    Returns:
        (K · R,) float32 of unit length.
    """
    squares = np.square(descriptors).sum(1)[:, None] + np.square(centers).sum(1)
    distances = np.sqrt(np.maximum(squares - 2 * descriptors @ centers.T, _MIN_SQUARE))
    weights = 1 / distances
    sums = weights.T @ descriptors - weights.sum(0)[:, None] * centers
    return unit(sums.reshape(-1))


def unit(vector: Float) -> Float:
    """The vector with unit length; zeros stay."""
    return np.asarray(vector / (np.linalg.norm(vector) + 1e-9), np.float32)


def principal_axes(samples: Float, count: int) -> tuple[Float, Float]:
    """Principal axes (D, count) of samples (N, D), about the origin, and their second moments."""
    values, vectors = np.linalg.eigh(samples.T @ samples / len(samples))
    order = np.argsort(values)[::-1][:count]
    axes = vectors[:, order]
    axes *= np.where(axes.sum(0) < 0, -1, 1)  # the sign of an eigenvector is arbitrary
    return axes.astype(np.float32), values[order].astype(np.float32)


def _centers(samples: Float, count: int, seed: int) -> Float:
    try:
        from scipy.cluster.vq import kmeans2
    except ModuleNotFoundError:
        raise MissingExtraError("the training of a vocabulary", "sfm") from None
    chosen = np.random.default_rng(seed).choice(len(samples), count, replace=False)
    centers, _ = kmeans2(samples, samples[chosen], iter=20, minit="matrix")
    return np.asarray(centers, np.float32)
