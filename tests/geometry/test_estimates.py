"""The result objects of the estimators."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from two_views import K0, K1, R_TRUE, T_TRUE, spatial_matches

from featherglue.geometry import (
    FundamentalMatrix,
    Homography,
    RelativePose,
    estimate_fundamental,
    estimate_homography,
    estimate_relative_pose,
)

INLIERS = np.array([True, False, True])
MATRICES = [
    Homography(model=np.eye(3), inliers=INLIERS),
    FundamentalMatrix(model=np.eye(3), inliers=INLIERS),
]
POSE = RelativePose(R=R_TRUE, t=T_TRUE / np.linalg.norm(T_TRUE), inliers=INLIERS)


@pytest.mark.parametrize("estimate", [*MATRICES, POSE])
def test_all_results_have_the_same_fields(
    estimate: Homography | FundamentalMatrix | RelativePose,
) -> None:
    assert estimate.model.shape == (3, 3)
    assert estimate.inliers is INLIERS
    assert estimate.num_inliers == 2
    assert repr(estimate) == f"{type(estimate).__name__}(2 of 3 matches are inliers)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.inliers = INLIERS  # type: ignore[misc]


def test_the_model_of_a_pose_is_its_essential_matrix() -> None:
    points0, points1 = spatial_matches(count=20)
    rays0 = np.c_[points0, np.ones(20)] @ np.linalg.inv(K0).T
    rays1 = np.c_[points1, np.ones(20)] @ np.linalg.inv(K1).T
    np.testing.assert_allclose((rays1 @ POSE.model * rays0).sum(1), 0, atol=1e-12)


def test_the_estimators_return_them() -> None:
    points0, points1 = spatial_matches()
    assert isinstance(estimate_homography(points0, points1), Homography)
    assert isinstance(estimate_fundamental(points0, points1), FundamentalMatrix)
    assert isinstance(estimate_relative_pose(points0, points1, K0, K1), RelativePose)


@pytest.mark.parametrize("estimate", MATRICES)
def test_unpacking_still_works_with_a_warning(estimate: Homography | FundamentalMatrix) -> None:
    with pytest.warns(DeprecationWarning, match="use its fields model and inliers"):
        model, inliers = estimate
    assert model is estimate.model
    assert inliers is estimate.inliers
