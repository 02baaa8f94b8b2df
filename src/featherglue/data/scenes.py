"""Procedural scenes with exact correspondences: what the matcher learns from.

A scene is a set of textured planes seen by two cameras. Every pixel of a view belongs to one plane
(the nearest one there), and each plane maps the first view to the second by one homography. A
photograph under a homography is the scene of a single plane; several planes at different depths
and slants bring parallax, occlusion and depth edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.homography import HomographyRange, Matrix, sample_homography, shift
from featherglue.data.photographs import PhotoFolder, Source
from featherglue.data.photometric import change_light
from featherglue.data.views import Sample, check_size, warp_image
from featherglue.errors import ConfigError

NOTHING = 255
Grey = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """How scenes are drawn.

    Attributes:
        size: (width, height) of a view, multiples of 8.
        homography: range of the single-plane scenes.
        planar: share of scenes with a single plane.
        planes: most planes in front of the background.
        light: strength of the photometric change of each view.
        detail: scale, view against photograph, at which a 3D scene shows its textures, drawn from
            this range by cutting them out of the photographs; None shows whole photographs.
    """

    size: tuple[int, int] = (320, 240)
    homography: HomographyRange = field(
        default_factory=lambda: HomographyRange(
            rotation=45, scale=1.7, anisotropy=1.4, perspective=0.35, translation=0.25
        )
    )
    planar: float = 0.5
    planes: int = 6
    light: float = 1.0
    detail: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.planes < 1:
            raise ConfigError(f"planes must be at least 1, not {self.planes}")
        if self.detail and not (len(self.detail) == 2 and 0 < self.detail[0] <= self.detail[1]):
            raise ConfigError(f"detail is two rising scales above 0, not {list(self.detail)}")


@dataclass(frozen=True)
class Spatial:
    """A scene of several planes.

    Attributes:
        photos, sources: the planes' textures, and where they are from.
        images, planes: of the two views, (H, W) uint8.
        to_views: for each view and plane the (3, 3) homography from texture to view, whose third
            coordinate is the depth.
    """

    photos: list[Grey]
    sources: list[Source]
    images: list[Grey]
    planes: list[Grey]
    to_views: list[list[Matrix]]


class Scenes:
    """Endless scenes; item `i` depends on the seed and `i` alone.

    An item holds image0, image1 (1, H, W) uint8; planes0, planes1 (H, W) uint8, the plane that
    each pixel shows, 255 for none; maps (P, 3, 3) float32, for each plane H_0to1 (identity where
    there is none).
    """

    def __init__(self, photos: PhotoFolder, config: SceneConfig, seed: int = 0) -> None:
        self.photos, self.config, self.seed = photos, config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        planar = rng.random() < self.config.planar
        if planar:
            images, planes, maps = self._planar(rng)
        else:
            scene = self.spatial(rng)
            images, planes = scene.images, scene.planes
            maps = [to1 @ np.linalg.inv(to0) for to0, to1 in zip(*scene.to_views, strict=True)]
        padded = np.tile(np.eye(3, dtype=np.float32), (self.config.planes + 1, 1, 1))
        for i, H in enumerate(maps):
            padded[i] = H / H[2, 2] if abs(H[2, 2]) > 1e-9 else H
        sample: Sample = {"maps": padded}
        for name, image, ids in zip("01", images, planes, strict=True):
            sample[f"image{name}"] = change_light(rng, image, self.config.light)[None]
            sample[f"planes{name}"] = ids
        return sample

    def _cut(
        self, rng: np.random.Generator, photo: Grey, source: Source, shown: float
    ) -> tuple[Grey, Source]:
        """A part of the photograph that fills `shown` pixels of the view at the scale drawn."""
        if not self.config.detail:
            return photo, source
        height, width = photo.shape
        side = shown / np.exp(rng.uniform(*np.log(self.config.detail)))
        w, h = min(width, max(32, round(side))), min(height, max(32, round(0.75 * side)))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        part = np.ascontiguousarray(photo[y : y + h, x : x + w])
        return part, replace(source, left=x, top=y)

    def _planar(self, rng: np.random.Generator) -> tuple[list[Grey], list[Grey], list[Matrix]]:
        (photo, _), size = self.photos.draw(rng), self.config.size
        height, width = photo.shape
        scale = max(size[0] / width, size[1] / height) * rng.uniform(0.9, 1.3)
        fit = (
            shift((size[0] - 1) / 2, (size[1] - 1) / 2)
            @ np.diag([scale, scale, 1.0])
            @ shift(-(width - 1) / 2, -(height - 1) / 2)
        )
        far = sample_homography(rng, size, self.config.homography)
        both = [fit, far @ fit] if rng.random() < 0.5 else [far @ fit, fit]
        images = [warp_image(photo, H, size) for H in both]
        cover = np.full_like(photo, 255)
        planes = [
            np.where(cv2.warpPerspective(cover, H, size) == 255, 0, NOTHING).astype(np.uint8)
            for H in both
        ]
        return images, planes, [both[1] @ np.linalg.inv(both[0])]

    def spatial(self, rng: np.random.Generator) -> Spatial:
        """A scene of several planes, before any change of light."""
        size = self.config.size
        focal = rng.uniform(0.7, 1.4) * size[0]
        K = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
        cameras = [np.eye(4), _second_camera(rng)]
        if rng.random() < 0.5:
            cameras.reverse()
        photos, sources, poses = self._draw_planes(rng, size, focal)
        to_views = [[_to_view(K, camera, pose) for pose in poses] for camera in cameras]
        views = [_render(photos, maps, size) for maps in to_views]
        return Spatial(photos, sources, [v[0] for v in views], [v[1] for v in views], to_views)

    def _draw_planes(
        self, rng: np.random.Generator, size: tuple[int, int], focal: float
    ) -> tuple[list[Grey], list[Source], list[Matrix]]:
        """Photographs, their sources and poses: (3, 3), pixel (x, y, 1) → point in the world.

        The first is a large background; the scene's depth is about 1.
        """
        photos: list[Grey] = []
        sources: list[Source] = []
        poses: list[Matrix] = []
        for i in range(1 + int(rng.integers(1, self.config.planes + 1))):
            photo, source = self.photos.draw(rng)
            depth = rng.uniform(1.6, 3.0) if i == 0 else rng.uniform(0.6, 1.5)
            tilt = _rotation(rng, 25 if i == 0 else 60)
            # The photograph's width in the world, so that it fills a share of the view.
            share = rng.uniform(1.6, 2.2) if i == 0 else rng.uniform(0.3, 0.9)
            photo, source = self._cut(rng, photo, source, share * size[0])
            height, width = photo.shape
            extent = share * size[0] / focal * depth
            pixel = max(extent / width, 0.75 * extent / height)
            spread = 0.1 if i == 0 else 0.45
            centre = np.append(rng.uniform(-spread, spread, 2) * size, focal) * depth / focal
            flat = np.array([[pixel, 0, 0], [0, pixel, 0], [0, 0, 0]])
            pose = tilt @ flat @ shift(-(width - 1) / 2, -(height - 1) / 2)
            pose[:, 2] += centre
            photos.append(photo)
            sources.append(source)
            poses.append(pose)
        return photos, sources, poses


def _rotation(rng: np.random.Generator, degrees: float) -> Matrix:
    """Rotation about a random axis by up to `degrees`; half as much about the viewing axis."""
    vector = np.deg2rad(rng.uniform(-1, 1, 3) * degrees * np.array([0.7, 0.7, 0.5]))
    return np.asarray(cv2.Rodrigues(vector)[0], np.float64)


def _second_camera(rng: np.random.Generator) -> Matrix:
    """World to camera (4, 4): it moves around a point and looks at its surroundings."""
    orbit = _rotation(rng, 45)
    pivot = np.array([0, 0, rng.uniform(0.8, 1.8)])
    camera = np.eye(4)
    camera[:3, :3] = _rotation(rng, 12) @ orbit
    camera[:3, 3] = pivot - orbit @ pivot + rng.uniform(-0.12, 0.12, 3)
    if rng.random() < 0.3:  # cameras are also held sideways, or roll
        roll = cv2.Rodrigues(np.array([0, 0, np.deg2rad(rng.uniform(-90, 90))]))[0]
        camera[:3] = roll @ camera[:3]
    return camera


def _to_view(K: Matrix, camera: Matrix, pose: Matrix) -> Matrix:
    """Homography from a plane's photograph to a view."""
    points = camera[:3, :3] @ pose
    points[:, 2] += camera[:3, 3]
    return np.asarray(K @ points)


def _render(photos: list[Grey], to_view: list[Matrix], size: tuple[int, int]) -> tuple[Grey, Grey]:
    """A view (H, W) and the plane that each of its pixels shows."""
    x = np.arange(size[0], dtype=np.float32)
    y = np.arange(size[1], dtype=np.float32)[:, None]
    image = np.zeros(size[::-1], np.uint8)
    planes = np.full(size[::-1], NOTHING, np.uint8)
    nearest = np.zeros(size[::-1], np.float32)  # inverse depth
    for i, (photo, H) in enumerate(zip(photos, to_view, strict=True)):
        if abs(np.linalg.det(H)) < 1e-12:
            continue
        # H·(u, v, 1) = depth·(x, y, 1), so H⁻¹·(x, y, 1) = (u, v, 1) / depth.
        (a, b, c), (d, e, f), (g, h, k) = np.linalg.inv(H).astype(np.float32)
        inverse = g * x + h * y + k
        u, v = a * x + b * y + c, d * x + e * y + f
        height, width = photo.shape
        visible = (inverse > nearest) & (inverse < 20) & (u >= inverse) & (v >= inverse)
        visible &= (u <= (width - 2) * inverse) & (v <= (height - 2) * inverse)
        if visible.any():
            np.copyto(image, warp_image(photo, H, size), where=visible)
            np.copyto(planes, np.uint8(i), where=visible)
            np.copyto(nearest, inverse, where=visible)
    return image, planes
