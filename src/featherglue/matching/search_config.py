"""Settings of the search over rotation and scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of the search. The defaults were chosen on training photographs.

    Pixels are those of an image as it is reduced by `working_size.working_factor`.

    Attributes:
        weak_ratio: a plain match is weak if the ratio between the total confidence of its matches
            and the smaller number of keypoints is below this. Hypotheses are tried only then.
        good_ratio: ratio above which a plain match needs no search.
        max_plain_rotation: degrees, maximum rotation at which a plain match needs no search.
        side: longest side in pixels of the small versions.
        scales: additional scales of the small versions.
        num_finalists: number of hypotheses that the matcher tries.
        clear_similarity: similarity of a hypothesis above which no others are ranked.
        min_strength: total confidence of matches below which a hypothesis is dropped.
        enough_strength: total confidence of a hypothesis above which no other one is tried.
        max_warps: maximum number of warps, each followed by a match.
        max_planes: maximum number of planes of a weak match by which an image is warped.
        tolerance: px, inlier threshold of the homography by which an image is warped.
        min_inliers: minimum number of inliers of that homography.
        same_scale: ratio of scales below which no image is shrunk and no search is needed.
        margin: px, width of the border of a warped image without keypoints.
        mild_ratio: ratio of the axes of local affine maps below which a homography needs no warp.
        min_gain: minimum ratio by which a warp must increase the total confidence for another one.
        min_distance: px, minimum distance of a match of the plain images from those of the warped
            ones, for it to be added.
        max_epipolar: px, maximum distance of a match from its epipolar line.
        min_verified: minimum number of matches that determine the epipolar geometry.
        max_cached: maximum number of images whose small features are kept.
    """

    weak_ratio: float = 0.3
    good_ratio: float = 0.75
    max_plain_rotation: float = 15.0
    side: int = 240
    scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    num_finalists: int = 2
    clear_similarity: float = 1.2
    min_strength: float = 4.5
    enough_strength: float = 15.0
    max_warps: int = 2
    max_planes: int = 2
    tolerance: float = 4.0
    min_inliers: int = 8
    same_scale: float = 1.15
    margin: float = 6.0
    mild_ratio: float = 1.15
    min_gain: float = 1.05
    min_distance: float = 3.0
    max_epipolar: float = 4.0
    min_verified: int = 12
    max_cached: int = 8
