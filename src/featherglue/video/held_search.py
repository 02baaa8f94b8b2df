"""Matching of many frames with one image, without a search for every frame.

The search finds how a frame sees the image. The image, warped to that view, replaces it for the
following frames: each then costs as much as a plain match, as long as the view holds. While the
image is out of sight, most frames are matched without a search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from featherglue.geometry.quick_estimates import quick_homography
from featherglue.matching.search import relative_view
from featherglue.matching.warped_views import View
from featherglue.session import Session
from featherglue.types import Features, MatchResult, SearchInfo

_TOLERANCE = 4.0  # px, inlier threshold of the homography
_MIN_INLIERS = 15  # of the homography, and of a match that ends a pause of the search
_MIN_RATIO = 0.5  # of the number of matches of a frame to that of the search
_MARGIN = 6.0  # px, border of the image without keypoints
_MAX_PAUSE = 16  # frames that are not searched after a search without a result


@dataclass(frozen=True, eq=False)
class _Held:
    """Features of a warped image, and the image that they stand for.

    Attributes:
        original: features of the image.
        view: the warped image.
        features: its features.
        num_matches: number of matches that the search found, at most as many as a match of these
            features can have. A search may use more keypoints.
    """

    original: Features
    view: View
    features: Features
    num_matches: int


class HeldSearch:
    """Matches frames with an image and keeps the view that a search found.

    After a search without a result, one frame is matched without a search, then 2, 4, 8, and at
    most 16.

    Args:
        session: extracts and matches; it searches unless its setting `search` is "off".
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._plain = session.with_search("off")
        self._held: _Held | None = None
        self._pause, self._remaining = 0, 0  # frames without a search: the last number, those left

    def match(self, image: Features, frame: Features) -> MatchResult:
        """Match an image with a frame, under the kept view as long as enough matches are found."""
        if self._held is not None and self._held.original is image:
            result = self._match_held(self._held, frame)
            if len(result.matches) >= _MIN_RATIO * self._held.num_matches:
                return result
        result = self._search(image, frame)
        self._held = None if result.search is None else self._hold(image, frame, result)
        return result

    def _search(self, image: Features, frame: Features) -> MatchResult:
        """Match with a search, unless the last ones had no result."""
        if self._remaining > 0:
            self._remaining -= 1
            result = self._plain.match(image, frame)
        else:
            result = self.session.match(image, frame)
            found = len(result.matches) >= _MIN_INLIERS or "search" not in result.milliseconds
            self._pause = 0 if found else min(_MAX_PAUSE, max(1, 2 * self._pause))
            self._remaining = self._pause
        if len(result.matches) >= _MIN_INLIERS:
            self._pause = self._remaining = 0
        return result

    def _match_held(self, held: _Held, frame: Features) -> MatchResult:
        result = self._plain.match(held.features, frame)
        matches = replace(result.matches, points0=held.view.back(result.matches.points0))
        rotation, scale = relative_view(matches)
        return replace(
            result,
            features0=held.view.in_original(held.features),
            matches=matches,
            search=SearchInfo(rotation=rotation, scale=scale, warps=1),
        )

    def _hold(self, image: Features, frame: Features, result: MatchResult) -> _Held | None:
        """Warp the image onto the frame by the homography of their matches."""
        matches = result.matches
        if image.image is None or len(matches) < _MIN_INLIERS:
            return None
        found = quick_homography(matches.points0, matches.points1, _TOLERANCE)
        if found is None or found[1].sum() < _MIN_INLIERS:
            return None
        view = View.warped(image.image, found[0], frame.image_size[::-1])
        features = view.extract(self._plain.extract, _MARGIN, image.mask)
        return _Held(image, view, features, min(len(matches), len(features), len(frame)))
