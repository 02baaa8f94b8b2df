"""Epipolar geometry: rays, errors of matches and errors of poses."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from two_views import K0, K1, R_TRUE, T_TRUE, pose_matrix, spatial_matches

from featherglue.errors import UsageError
from featherglue.geometry.epipolar import (
    cross_matrix,
    epipolar_errors,
    essential_matrix,
    line_offsets,
    normalize_points,
    pose_errors,
    sampson_distances,
)
from featherglue.geometry.estimates import RelativePose

Array = NDArray[Any]


def test_points_become_rays() -> None:
    points = np.array([(K0[0, 2], K0[1, 2]), (K0[0, 2] + 520, K0[1, 2] - 525)])
    np.testing.assert_allclose(normalize_points(points, K0), [(0, 0), (1, -1)])


def test_pose_errors() -> None:
    none = np.zeros(0, np.bool_)
    pose = RelativePose(R=np.eye(3), t=np.array([1.0, 0, 0]), inliers=none)
    about_y = cv2.Rodrigues(np.array([0, np.deg2rad(30), 0]))[0]
    T = pose_matrix(about_y, np.array([5.0, 5.0, 0]))
    assert pose_errors(pose, T) == pytest.approx((30, 45))
    T = pose_matrix(np.eye(3), np.array([-0.1, 0, 0]))
    assert pose_errors(pose, T) == pytest.approx((0, 0))  # the sign is ignored
    T = pose_matrix(cv2.Rodrigues(np.array([0, 0, np.pi]))[0], np.array([0, 0, 2.0]))
    assert pose_errors(pose, T[:3]) == pytest.approx((180, 90))


def test_invalid_intrinsics_are_rejected() -> None:
    with pytest.raises(UsageError, match="positive focal lengths"):
        normalize_points(np.zeros((1, 2)), np.zeros((3, 3)))


def test_cross_matrix() -> None:
    first, second = np.array([1.0, -2, 3]), np.array([0.5, 4, -1])
    np.testing.assert_allclose(cross_matrix(first) @ second, np.cross(first, second))


def test_exact_matches_lie_on_their_epipolar_lines() -> None:
    points0, points1 = spatial_matches()
    E = essential_matrix(R_TRUE, T_TRUE)
    F = np.linalg.inv(K1).T @ E @ np.linalg.inv(K0)
    assert sampson_distances(F, points0, points1).max() < 1e-9
    lines = np.c_[points0, np.ones(200)] @ F.T
    normals = lines[:, :2] / np.linalg.norm(lines[:, :2], axis=1)[:, None]
    distances = sampson_distances(F, points0, points1 + normals)  # one pixel off the line
    assert ((distances > 0.4) & (distances <= 1)).all()
    np.testing.assert_allclose(line_offsets(F, points0, points1 + 3 * normals), -3 * normals)


def test_a_point_without_an_epipolar_line_has_no_offset() -> None:
    F = cross_matrix(np.array([4.0, 7, 1]))  # a camera that moved along its axis
    assert not line_offsets(F, np.array([[4.0, 7]]), np.array([[9.0, 9]])).any()


def pose(t: tuple[float, float, float]) -> Array:
    """A rotation by 0.3 about a skew axis, and a translation."""
    axis = np.array([1.0, 2.0, -0.5]) / np.linalg.norm([1.0, 2.0, -0.5])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    T = np.eye(4)
    T[:3, :3] = np.eye(3) + np.sin(0.3) * cross + (1 - np.cos(0.3)) * cross @ cross
    T[:3, 3] = t
    return T


def rays(T: Array, planar: bool = False) -> tuple[Array, Array]:
    points = np.random.default_rng(5).uniform((-2, -2, 4), (2, 2, 8), (30, 3))
    if planar:
        points[:, 2] = 6 + 0.3 * points[:, 0]
    moved = points @ T[:3, :3].T + T[:3, 3]
    return points[:, :2] / points[:, 2:], moved[:, :2] / moved[:, 2:]


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("t", [(1.0, 0.2, -0.3), (0.0, 0.0, 2.0), (0.0, 0.0, 0.0)])
def test_exact_points_have_no_epipolar_error(t: tuple[float, float, float], planar: bool) -> None:
    rays0, rays1 = rays(pose(t), planar)
    assert epipolar_errors(rays0, rays1, pose(t)).max() < 1e-20
    off = epipolar_errors(rays0, rays1 + np.array([0.3, -0.4]), pose(t))
    assert np.median(off) > 5e-4


def test_epipolar_errors_equal_the_published_formula() -> None:
    T = pose((1.0, 0.2, -0.3))
    rays0, rays1 = rays(T)
    rays1 = rays1 + np.random.default_rng(1).normal(0, 0.01, rays1.shape)
    t = T[:3, 3]
    E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ T[:3, :3]
    expected = []
    for (x0, y0), (x1, y1) in zip(rays0, rays1, strict=True):
        p0, p1 = np.array([x0, y0, 1]), np.array([x1, y1, 1])
        line1, line0 = E @ p0, E.T @ p1
        weight = 1 / (line1[0] ** 2 + line1[1] ** 2) + 1 / (line0[0] ** 2 + line0[1] ** 2)
        expected.append(float(p1 @ E @ p0) ** 2 * weight)
    assert epipolar_errors(rays0, rays1, T) == pytest.approx(np.array(expected))
    scaled = T.copy()
    scaled[:3, 3] *= 40
    assert epipolar_errors(rays0, rays1, scaled) == pytest.approx(np.array(expected))


def test_a_pure_rotation_is_compared_with_the_rotated_ray() -> None:
    T = pose((0.0, 0.0, 0.0))
    rays0, rays1 = rays(T)
    moved = rays1 + np.array([0.01, 0.0])
    errors = epipolar_errors(rays0, moved, T)
    assert ((errors > 1e-4) & (errors < 5e-4)).all()  # 1e-4 in image 1, about as much in image 0
