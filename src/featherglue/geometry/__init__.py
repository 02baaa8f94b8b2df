"""Geometry of two views: robust estimation, local optimization and error metrics."""

from featherglue.geometry.estimates import FundamentalMatrix, Homography, RelativePose
from featherglue.geometry.estimation import (
    estimate_fundamental,
    estimate_homography,
    estimate_relative_pose,
)

__all__ = [
    "FundamentalMatrix",
    "Homography",
    "RelativePose",
    "estimate_fundamental",
    "estimate_homography",
    "estimate_relative_pose",
]
