"""Guided matching: the geometry of the matches of a pair improves them and adds others.

The geometry of many matches is more accurate than each of them. It predicts where a keypoint lies
in image 1, and how its surroundings look there (Hartley and Zisserman 2004, algorithm 4.6). A plane
has one homography (`guided_plane`); other scenes have local affine maps and an epipolar geometry
(`guided_scene`). Only pairs with few matches gain enough to be worth the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from featherglue.matching.guided_pair import GuidedPair
from featherglue.matching.guided_plane import PlaneMatchingConfig, match_plane
from featherglue.matching.guided_scene import SceneMatchingConfig, match_scene
from featherglue.matching.scratch import Scratch
from featherglue.options import ProcessingConfig
from featherglue.types import Matches, MatchResult


@dataclass(frozen=True, kw_only=True)
class GuidedConfig:
    """Settings of guided matching. The defaults were chosen on training photographs.

    Attributes:
        complete_ratio: a pair is incomplete if the ratio between the total confidence of its
            matches and the smaller number of keypoints is below this.
        plane: settings for pairs that one homography explains.
        scene: settings for other pairs.
    """

    complete_ratio: float = 0.6
    plane: PlaneMatchingConfig = field(default_factory=PlaneMatchingConfig)
    scene: SceneMatchingConfig = field(default_factory=SceneMatchingConfig)


def strength(matches: Matches) -> float:
    """Total confidence of matches. Results are compared by it."""
    return float(matches.scores.sum())


def relative_strength(result: MatchResult) -> float:
    """Ratio between the total confidence of matches and the smaller number of keypoints."""
    count = min(len(result.features0), len(result.features1))
    return strength(result.matches) / max(count, 1)


def is_incomplete(result: MatchResult, config: GuidedConfig | None = None) -> bool:
    """Whether the matches of a pair are so few or uncertain that guided matching adds to them."""
    return relative_strength(result) < (config or GuidedConfig()).complete_ratio


def is_guided(processing: ProcessingConfig) -> bool:
    """Whether the settings allow guided matching: it needs the refinement on images."""
    return processing.guided_matching and processing.refine


def complete(
    result: MatchResult,
    processing: ProcessingConfig,
    scratch: Scratch,
    config: GuidedConfig | None = None,
) -> MatchResult:
    """Refine the matches of a pair again, drop those of a plane that deviate, and add others.

    The points of image 1 move to where the homography of a plane maps their partners, or onto the
    epipolar lines of a scene with depth (`move_to_lines`).

    A match threshold above the confidence of added matches leaves them out.

    Args:
        result: matches and features; without their images, points stay as they are, and only pairs
            that one homography explains get further matches.
        processing: settings of the session that matched.
        scratch: buffers.
        config: settings; None uses the defaults.
    """
    config = config or GuidedConfig()
    pair = GuidedPair.of(result, processing, scratch)
    matches = match_plane(pair, result.matches, config.plane, moves=True)
    if matches is None:
        matches = match_scene(pair, result.matches, config.scene)
    return replace(result, matches=matches)


def complete_plane(
    result: MatchResult,
    processing: ProcessingConfig,
    scratch: Scratch,
    config: GuidedConfig | None = None,
) -> MatchResult:
    """As `complete`, but only if one homography explains the pair; else the result itself.

    No points move to where the homography maps their partners, because further matches follow.
    """
    config = config or GuidedConfig()
    pair = GuidedPair.of(result, processing, scratch)
    matches = match_plane(pair, result.matches, config.plane)
    return result if matches is None else replace(result, matches=matches)
