"""What the search over rotation and scale calls: extraction, matching and the last step."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from typing import Any, Protocol

import numpy as np

from featherglue.io.gray import Gray
from featherglue.matching.guided import complete, complete_plane, is_guided, is_incomplete
from featherglue.matching.keypoint_mask import apply_mask
from featherglue.matching.scratch import Scratch
from featherglue.matching.working_size import working_factor, working_size
from featherglue.options import ProcessingConfig
from featherglue.types import Features, MatchResult

SMALL_KEYPOINTS = 200  # of each small version
_DENSITY = 2  # maximum number of keypoints of an image of a weak pair, relative to `max_keypoints`
_MAX_DENSE = 2048  # of these keypoints, unless `max_keypoints` is more
_MAX_KEPT = 2  # images whose network output is kept, about 8 bytes per pixel each


class PlainSession(Protocol):
    """The methods of a session that the search calls."""

    processing: ProcessingConfig

    def with_settings(self, **overrides: Any) -> PlainSession:
        """A session with other settings."""
        ...

    def with_search(self, search: Any) -> PlainSession:
        """A session with another mode of the search."""
        ...

    def extract(self, image: Gray) -> Features:
        """Features of an image."""
        ...

    def decode(self, raw: Any) -> Features:
        """Features from the output of the network."""
        ...

    def match(self, features0: Features, features1: Features) -> MatchResult:
        """Matches of two sets of features."""
        ...


class SessionPipeline:
    """Extraction and matching by a session, at the sizes that the search asks for.

    Args:
        session: extracts and matches.
        is_dense: whether an image of a weak pair may get more keypoints than the session extracts.

    Attributes:
        max_keypoints: maximum number of keypoints of an image; negative if there is none.
        max_dense: the same for an image of a weak pair, while it is searched.
        is_dense: whether `extract_dense` may find more keypoints than `extract`.
    """

    def __init__(self, session: PlainSession, is_dense: bool = True) -> None:
        plain = session.with_search("off")
        self._processing = session.processing
        self.max_keypoints = self.max_dense = session.processing.max_keypoints
        self._full = plain.with_settings(resize=-1, guided_matching=False)
        limit, is_limited = self.max_keypoints, session.processing.has_high_threshold
        self.is_dense = is_dense and (is_limited or 0 < limit < _MAX_DENSE)
        self._dense = self._full
        if self.is_dense:
            if 0 < limit < _MAX_DENSE:
                self.max_dense = min(_DENSITY * limit, _MAX_DENSE)
            self._dense = self._full.with_settings(
                max_keypoints=self.max_dense, high_keypoint_threshold=0.0
            )
        self._all = self._full.with_settings(max_keypoints=-1)
        self._coarse = self._full.with_settings(max_keypoints=SMALL_KEYPOINTS, refine=False)
        self._scratch = Scratch()
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def extract_small(self, image: Gray, mask: Gray | None = None) -> Features:
        """A few strong features of a small image, where its mask is not 0."""
        if mask is None:
            return self._coarse.extract(image)
        return apply_mask(self._all.extract(image), mask, SMALL_KEYPOINTS)

    def extract_all(self, image: Gray) -> Features:
        """All features of an image at its own size."""
        return self._all.extract(image)

    def extract(self, image: Gray) -> Features:
        """Features of an image at its own size."""
        return self._full.extract(image)

    def keep(self, raw: Any) -> None:
        """Keep the output of the network for the last images, from which `extract_dense` decodes.

        Args:
            raw: returned by `run_extractor` of the session.
        """
        if not self.is_dense:
            return
        with self._lock:
            self._kept[id(raw.image)] = raw
            self._kept.move_to_end(id(raw.image))
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)

    def extract_dense(self, image: Gray, original: Gray | None = None) -> Features:
        """Features of an image at its own size, for a weak pair: up to `max_dense`.

        The limit `high_keypoint_threshold` does not apply, unless `is_dense` is false.

        Args:
            image: (H, W) uint8.
            original: the image that `image` is a smaller version of; None if it is none. The
                network does not run again if its output at this size is kept.
        """
        owner = image if original is None else original
        with self._lock:
            raw = self._kept.get(id(owner))
        if raw is not None and raw.image is owner and raw.working_size == image.shape[::-1]:
            return self._dense.decode(dataclasses.replace(raw, image=image))
        return self._dense.extract(image)

    def shrink_factor(self, image: Gray) -> float:
        """Factor by which the session shrinks an image before extraction."""
        size = (image.shape[1], image.shape[0])
        width, height = working_size(size, self._processing)
        return min(1.0, float(np.sqrt(width * height / (size[0] * size[1]))))

    def working_factor(self, image: Gray) -> float:
        """Factor of the frame in which distances are limited; see `working_size.working_factor`."""
        return working_factor((image.shape[1], image.shape[0]), self._processing)

    def match(self, features0: Features, features1: Features) -> MatchResult:
        """Match features of images at their own size, without a search."""
        return self._full.match(features0, features1)

    def match_small(self, features0: Features, features1: Features) -> MatchResult:
        """Match features of small images."""
        return self._coarse.match(features0, features1)

    def needs_completion(self, result: MatchResult) -> bool:
        """Whether the matches are few, and guided matching applies."""
        return is_guided(self._processing) and is_incomplete(result)

    def complete(self, result: MatchResult) -> MatchResult:
        """Refine, filter and complete the few matches of views that show a plane."""
        if not self.needs_completion(result):
            return result
        return complete_plane(result, self._full.processing, self._scratch)

    def finish(self, result: MatchResult) -> MatchResult:
        """The last step: refine, filter and complete the matches of images as they were given."""
        if not is_guided(self._processing):
            return result
        return complete(result, self._processing, self._scratch)
