"""The features of a feature file as sessions take them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.collection.match_alignment import smoothed
from featherglue.collection.numbered_keypoints import record_frame
from featherglue.collection.photo_frames import Frame, mask_path, read_mask, read_view
from featherglue.collection.shipping import open_records
from featherglue.collection.tasks import RecordSource
from featherglue.errors import ImageError
from featherglue.io.gray import Gray
from featherglue.types import Features

# Maximum size of the images that a process keeps, and of the descriptors.
_MAX_CACHED_BYTES = 128_000_000


class FeatureReader:
    """Features of a feature file in the working frame, and their images; a cache.

    Args:
        feature_file: the features, or their records.
        images: folder of the images.
        with_images: whether the features keep their image, as a search needs it. Otherwise an image
            is read when it is aligned: pairs without matches do not need it.
        masks: folder of the masks that features with an image keep, too.
    """

    def __init__(
        self,
        feature_file: Path | RecordSource,
        images: Path,
        *,
        with_images: bool = False,
        masks: Path | None = None,
    ) -> None:
        self._store, self._images = open_records(feature_file), images
        self._with_images, self._masks = with_images, masks
        self._features: OrderedDict[str, tuple[Features, tuple[int, int]]] = OrderedDict()
        self._smoothed: OrderedDict[str, Gray] = OrderedDict()
        self._max_size = self._store.manifest.get("max_size")

    def read(self, name: str) -> Features:
        """The features of an image.

        Raises:
            StoreError: the file has no features of it.
            ImageError: the image or its mask is needed, and cannot be read or has another size.
        """
        return self._read(name)[0]

    def smoothed(self, name: str) -> Gray:
        """The image as `align_matches` takes it.

        Raises:
            StoreError: the file has no features of it.
            ImageError: the image cannot be read, or has another size than its features.
        """
        if name not in self._smoothed:
            features, size = self._read(name)
            image = self._view(name, size)[0] if features.image is None else features.image
            self._smoothed[name] = smoothed(image)
            _limit(self._smoothed, lambda image: image.nbytes)
        self._smoothed.move_to_end(name)
        return self._smoothed[name]

    def _read(self, name: str) -> tuple[Features, tuple[int, int]]:
        if name not in self._features:
            self._features[name] = self._load(name)
            _limit(self._features, lambda item: _num_bytes(item[0]))
        self._features.move_to_end(name)
        return self._features[name]

    def _load(self, name: str) -> tuple[Features, tuple[int, int]]:
        """The features of an image, and the size (width, height) of its stored frame."""
        record = self._store.read((name,), required="keypoints")
        points = record.arrays["keypoints"].astype(np.float32)
        size = record.arrays.get("image_size")  # other programs may not have it
        expected = None if size is None else (int(size[0]), int(size[1]))
        image = None
        if self._with_images or expected is None or "working_size" not in record.attributes:
            image, frame = self._view(name, expected)
        else:
            frame = record_frame(record, points)
        path = mask_path(self._masks, name) if self._masks and self._with_images else None
        descriptors = record.arrays.get("descriptors", np.zeros((0, len(points))))
        features = Features(
            keypoints=frame.to_working(points),
            scores=record.arrays.get("scores", np.zeros(len(points))).astype(np.float32),
            descriptors=np.ascontiguousarray(descriptors.T, np.float32),
            image_size=frame.working_size,
            image=image if self._with_images else None,
            mask=read_mask(path, frame) if path is not None and path.exists() else None,
        )
        return features, frame.size

    def _view(self, name: str, expected: tuple[int, int] | None) -> tuple[Gray, Frame]:
        """See `read_view`. Raises ImageError if the image has another size than expected."""
        image, frame = read_view(self._images / name, self._max_size)
        if expected is not None and frame.size != expected:
            raise ImageError(
                f"{name}: has {frame.size[0]}×{frame.size[1]} pixels, its features are of "
                f"{expected[0]}×{expected[1]}: extract them again"
            )
        return image, frame


def _num_bytes(features: Features) -> int:
    pictures = (features.image, features.mask)
    return features.descriptors.nbytes + sum(each.nbytes for each in pictures if each is not None)


def _limit(cached: OrderedDict[str, Any], num_bytes: Callable[[Any], int]) -> None:
    """Remove the items that were used longest ago; the latest two stay."""
    while len(cached) > 2 and sum(map(num_bytes, cached.values())) > _MAX_CACHED_BYTES:
        cached.popitem(last=False)
