"""Matching of two sets of features: assignment, consensus and refinement, without a search."""

from __future__ import annotations

import numpy as np

from featherglue.errors import UsageError
from featherglue.matching.consensus import filter_by_consensus
from featherglue.matching.matchers import Matcher
from featherglue.matching.scaled_refinement import refine_at_scales
from featherglue.matching.scratch import Scratch
from featherglue.matching.stopwatch import Stopwatch
from featherglue.matching.working_size import reduced_points, working_factor
from featherglue.options import ProcessingConfig
from featherglue.types import Features, Matches, MatchResult


def match_features(
    matcher: Matcher,
    processing: ProcessingConfig,
    features0: Features,
    features1: Features,
    watch: Stopwatch,
    scratch: Scratch,
) -> MatchResult:
    """Match two sets of features.

    Args:
        matcher: assigns keypoints to each other.
        processing: settings of consensus and refinement.
        features0: features of the first image.
        features1: features of the second image.
        watch: adds up the time by stage; the result has its times.
        scratch: buffers.

    Raises:
        UsageError: descriptors of different widths, or images in place of features.
    """
    for name, given in (("features0", features0), ("features1", features1)):
        if not isinstance(given, Features):
            raise UsageError(
                f"{name} must be Features, not {type(given).__name__}: extract the image first, or "
                "call the session itself with both images"
            )
    width0, width1 = features0.descriptors.shape[1], features1.descriptors.shape[1]
    if width0 != width1:
        raise UsageError(f"descriptors differ in width: {width0} and {width1}")
    if len(features0) and len(features1):
        indices, scores = matcher(features0, features1, watch)
    else:
        indices, scores = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    points0 = features0.keypoints[indices[:, 0]]
    points1 = features1.keypoints[indices[:, 1]]
    maps = None
    factors = (
        working_factor(features0.image_size, processing),
        working_factor(features1.image_size, processing),
    )
    confidence = processing.consensus
    if confidence is not None:
        if not matcher.gives_probabilities:
            confidence = np.inf  # every match needs the support of its neighbors
        with watch.stage("consensus"):
            first, second = reduced_points(points0, points1, factors)
            kept, maps = filter_by_consensus(first, second, scores, confidence)
            indices, scores = indices[kept], scores[kept]
            points0, points1 = points0[kept], points1[kept]
    refined = np.zeros(len(indices), np.bool_)
    image0, image1 = features0.image, features1.image
    if processing.refine and image0 is not None and image1 is not None:
        with watch.stage("refine"):
            points1, refined = refine_at_scales(
                image0, image1, points0, points1, factors, scratch, maps
            )
    matches = Matches(
        indices=indices, scores=scores, points0=points0, points1=points1, refined=refined
    )
    return MatchResult(
        features0=features0,
        features1=features1,
        matches=matches,
        milliseconds=watch.milliseconds,
    )
