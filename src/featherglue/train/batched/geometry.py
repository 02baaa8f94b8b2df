"""Batches of random homographies and cameras, as in `data.homography` and `data.scenes`.

Matrices are (…, 3, 3) float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from featherglue.data.homography import HomographyRange
from featherglue.train.batched.draws import Draws


def matrix(rows: list[list[Tensor | float]]) -> Tensor:
    """Matrices (…, rows, columns) whose entries are tensors (…) of one shape, or numbers."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    flat = [
        entry if isinstance(entry, Tensor) else torch.full_like(like, entry)
        for row in rows
        for entry in row
    ]
    return torch.stack(flat, -1).reshape(*like.shape, len(rows), len(rows[0]))


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Translation by (x, y)."""
    return matrix([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Scaling by factors x and y of the two axes."""
    return matrix([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def plane_rotation(angle: Tensor) -> Tensor:
    """Rotation of the plane by an angle in radians."""
    c, s = angle.cos(), angle.sin()
    return matrix([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def inverse(H: Tensor) -> Tensor:
    """The inverse matrices; not finite for singular matrices."""
    a, b, c = H.double().unbind(-2)
    columns = (torch.cross(b, c, -1), torch.cross(c, a, -1), torch.cross(a, b, -1))
    determinant = (a * columns[0]).sum(-1)[..., None, None]
    return (torch.stack(columns, -1) / determinant).float()


def determinant(H: Tensor) -> Tensor:
    """The determinants (…)."""
    a, b, c = H.unbind(-2)
    return (a * torch.cross(b, c, -1)).sum(-1)


def rotation(vector: Tensor) -> Tensor:
    """Rotation about the direction of a vector (…, 3) by its length in radians (Rodrigues)."""
    angle = vector.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    x, y, z = (vector / angle).unbind(-1)
    cross = matrix([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = angle[..., None]
    unit = torch.eye(3, device=vector.device)
    turned: Tensor = unit + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
    return turned


def random_rotations(draws: Draws, degrees: float | Tensor, *shape: int) -> Tensor:
    """Rotations about random axes by up to `degrees`; half as much about the viewing axis."""
    extent = torch.tensor([0.7, 0.7, 0.5], device=draws.device)
    vector = draws.uniform(-1, 1, *shape, 3) * extent * math.pi / 180
    return rotation(vector * degrees)


def homographies(
    draws: Draws, size: tuple[int, int], limits: HomographyRange, count: int
) -> Tensor:
    """Random homographies (count, 3, 3) float32 that map pixels of an image of `size`
    (width, height) to those of a view of that size; see `homography.sample_homography`."""
    width, height = size
    angle = draws.uniform(-1, 1, count) * math.radians(limits.rotation)
    scale = draws.factor(limits.scale, count)
    stretch = (draws.uniform(0, 0.5, count) * math.log(limits.anisotropy)).exp()
    axis = draws.uniform(0, math.pi, count)
    linear = (
        plane_rotation(angle)
        @ plane_rotation(-axis)
        @ scaling(scale * stretch, scale / stretch)
        @ plane_rotation(axis)
    )
    tilt = draws.uniform(-1, 1, count, 2) * limits.perspective / (math.hypot(width, height) / 2)
    bend = matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [tilt[:, 0], tilt[:, 1], 1.0]])
    move = draws.uniform(-1, 1, count, 2) * limits.translation
    x = torch.full_like(angle, (width - 1) / 2)
    y = torch.full_like(angle, (height - 1) / 2)
    return (
        translation(move[:, 0] * width + x, move[:, 1] * height + y)
        @ bend
        @ linear
        @ translation(-x, -y)
    )


def second_cameras(draws: Draws, count: int) -> tuple[Tensor, Tensor]:
    """World to camera: rotations (count, 3, 3) and translations (count, 3).

    The cameras orbit a point of the scene; 30 % of them also roll by up to 90°.
    """
    orbit = random_rotations(draws, 45, count)
    pivot = torch.zeros(count, 3, device=draws.device)
    pivot[:, 2] = draws.uniform(0.8, 1.8, count)
    turned = random_rotations(draws, 12, count) @ orbit
    moved = pivot - (orbit @ pivot[..., None])[..., 0] + draws.uniform(-0.12, 0.12, count, 3)
    angle = draws.uniform(-1, 1, count) * math.pi / 2
    roll = plane_rotation(torch.where(draws.chance(0.3, count), angle, 0.0))
    return roll @ turned, (roll @ moved[..., None])[..., 0]
