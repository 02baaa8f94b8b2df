"""Procedural scenes of textured planes with exact correspondences: training data of the matcher.

A scene is a set of planes with photographs as textures, seen by two cameras. Each pixel of a view
shows the nearest plane there, and each plane induces one homography between the views. A scene of
a single plane is a photograph under a homography; several planes at different depths and slants
add parallax, occlusion and depth edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from featherglue.data.appearance import augment_appearance
from featherglue.data.detector_labels import Sample, check_size
from featherglue.data.homography import (
    HomographyRange,
    Matrix,
    sample_homography,
    translation_matrix,
    warp_image,
)
from featherglue.data.photographs import PhotoCrop, PhotoFolder
from featherglue.data.photometric import augment_photometric, check_strength
from featherglue.errors import ConfigError
from featherglue.io.gray import Gray

NO_PLANE = 255
"""Plane index of pixels that show no plane."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """Settings of procedural scenes.

    Attributes:
        size: (width, height) of a view, pixels, multiples of 8.
        homography: range of the homography of single-plane scenes.
        planar: fraction of the scenes with a single plane, in [0, 1].
        max_planes: maximum number of planes in front of the background in the other scenes.
        photometric_strength: strength of the photometric augmentation of each view, at least 0.
        appearance: fraction of scenes whose views get the strong changes of `augment_appearance`
            instead of the photometric augmentation.
        detail: range of the scale of a texture, in view pixels per photograph pixel; crops of the
            photographs are used as textures. None uses whole photographs.

    Raises:
        ConfigError: a value is out of range.
    """

    size: tuple[int, int] = (320, 240)
    homography: HomographyRange = field(
        default_factory=lambda: HomographyRange(
            rotation=45, scale=1.7, anisotropy=1.4, perspective=0.35, translation=0.25
        )
    )
    planar: float = 0.5
    max_planes: int = 6
    photometric_strength: float = 1.0
    appearance: float = 0.0
    detail: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_size(self.size)
        if not 0 <= self.planar <= 1:
            raise ConfigError(f"planar must be in [0, 1], not {self.planar}")
        check_strength(self.photometric_strength)
        if self.max_planes < 1:
            raise ConfigError(f"max_planes must be at least 1, not {self.max_planes}")
        if not 0 <= self.appearance <= 1:
            raise ConfigError(f"appearance must be in [0, 1], not {self.appearance}")
        if self.detail and not (len(self.detail) == 2 and 0 < self.detail[0] <= self.detail[1]):
            raise ConfigError(
                f"detail must be a minimum and a maximum scale above 0, not {list(self.detail)}"
            )


@dataclass(frozen=True)
class Scene3D:
    """A rendered scene of several planes. The first plane is the background.

    Attributes:
        textures: one image (h, w) uint8 for each plane.
        crops: the part of a photograph that each texture shows.
        images: both views, (H, W) uint8, without photometric augmentation.
        planes: for both views the plane index of each pixel, (H, W) uint8, or `NO_PLANE`.
        to_views: for each view and plane the homography (3, 3) from texture to view, scaled so
            that its third coordinate is the depth.
    """

    textures: list[Gray]
    crops: list[PhotoCrop]
    images: list[Gray]
    planes: list[Gray]
    to_views: list[list[Matrix]]


class Scenes:
    """An endless dataset of scenes. Sample `i` depends only on the seed and `i`.

    A sample holds:

    - `image0`, `image1`: (1, H, W) uint8.
    - `planes0`, `planes1`: (H, W) uint8, the plane that each pixel shows, or `NO_PLANE`.
    - `maps`: (max_planes + 1, 3, 3) float32, the homography from view 0 to view 1 of each plane,
      padded with identities.
    """

    def __init__(self, photos: PhotoFolder, config: SceneConfig, seed: int = 0) -> None:
        self.photos, self.config, self.seed = photos, config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        if rng.random() < self.config.planar:
            images, planes, maps = self._planar(rng)
        else:
            scene = self.draw_scene(rng)
            images, planes = scene.images, scene.planes
            maps = [to1 @ np.linalg.inv(to0) for to0, to1 in zip(*scene.to_views, strict=True)]
        padded = np.tile(np.eye(3, dtype=np.float32), (self.config.max_planes + 1, 1, 1))
        for i, H in enumerate(maps):
            padded[i] = H / H[2, 2] if abs(H[2, 2]) > 1e-9 else H
        sample: Sample = {"maps": padded}
        # No draw without this option, so that the scenes of earlier configurations stay the same.
        strong = self.config.appearance > 0 and rng.random() < self.config.appearance
        augment = augment_appearance if strong else augment_photometric
        for name, image, indices in zip("01", images, planes, strict=True):
            sample[f"image{name}"] = augment(rng, image, self.config.photometric_strength)[None]
            sample[f"planes{name}"] = indices
        return sample

    def _planar(self, rng: np.random.Generator) -> tuple[list[Gray], list[Gray], list[Matrix]]:
        """Images, plane indices and homography of a scene of a single plane."""
        (photo, _), size = self.photos.draw(rng), self.config.size
        height, width = photo.shape
        scale = max(size[0] / width, size[1] / height) * rng.uniform(0.9, 1.3)
        fit = (
            translation_matrix((size[0] - 1) / 2, (size[1] - 1) / 2)
            @ np.diag([scale, scale, 1.0])
            @ translation_matrix(-(width - 1) / 2, -(height - 1) / 2)
        )
        warp = sample_homography(rng, size, self.config.homography)
        to_views = [fit, warp @ fit] if rng.random() < 0.5 else [warp @ fit, fit]
        images = [warp_image(photo, H, size) for H in to_views]
        white = np.full_like(photo, 255)
        planes = [
            np.where(cv2.warpPerspective(white, H, size) == 255, 0, NO_PLANE).astype(np.uint8)
            for H in to_views
        ]
        return images, planes, [to_views[1] @ np.linalg.inv(to_views[0])]

    def draw_scene(self, rng: np.random.Generator) -> Scene3D:
        """A random scene of several planes, without photometric augmentation."""
        size = self.config.size
        focal = rng.uniform(0.7, 1.4) * size[0]
        K = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
        cameras = [np.eye(4), _second_camera(rng)]
        if rng.random() < 0.5:
            cameras.reverse()
        textures, crops, poses = self._draw_planes(rng, size, focal)
        to_views = [[_texture_to_view(K, camera, pose) for pose in poses] for camera in cameras]
        views = [_render(textures, homographies, size) for homographies in to_views]
        return Scene3D(
            textures=textures,
            crops=crops,
            images=[image for image, _ in views],
            planes=[planes for _, planes in views],
            to_views=to_views,
        )

    def _draw_planes(
        self, rng: np.random.Generator, size: tuple[int, int], focal: float
    ) -> tuple[list[Gray], list[PhotoCrop], list[Matrix]]:
        """Textures, crops and poses of all planes. The depth of the scene is about 1.

        A pose is (3, 3); it maps texture pixel (x, y, 1) to a point in world coordinates.
        """
        textures: list[Gray] = []
        crops: list[PhotoCrop] = []
        poses: list[Matrix] = []
        for i in range(1 + int(rng.integers(1, self.config.max_planes + 1))):
            background = i == 0
            texture, crop = self.photos.draw(rng)
            depth = rng.uniform(1.6, 3.0) if background else rng.uniform(0.6, 1.5)
            rotation = _rotation(rng, 25 if background else 60)
            # Width of the plane as a fraction of the view's width.
            fraction = rng.uniform(1.6, 2.2) if background else rng.uniform(0.3, 0.9)
            texture, crop = self._crop(rng, texture, crop, fraction * size[0])
            height, width = texture.shape
            extent = fraction * size[0] / focal * depth
            pixel = max(extent / width, 0.75 * extent / height)
            spread = 0.1 if background else 0.45
            center = np.append(rng.uniform(-spread, spread, 2) * size, focal) * depth / focal
            scale = np.array([[pixel, 0, 0], [0, pixel, 0], [0, 0, 0]])
            pose = rotation @ scale @ translation_matrix(-(width - 1) / 2, -(height - 1) / 2)
            pose[:, 2] += center
            textures.append(texture)
            crops.append(crop)
            poses.append(pose)
        return textures, crops, poses

    def _crop(
        self, rng: np.random.Generator, photo: Gray, crop: PhotoCrop, shown: float
    ) -> tuple[Gray, PhotoCrop]:
        """Crop a photograph so that it covers `shown` pixels of the view at a scale of `detail`."""
        if not self.config.detail:
            return photo, crop
        height, width = photo.shape
        side = shown / np.exp(rng.uniform(*np.log(self.config.detail)))
        w, h = min(width, max(32, round(side))), min(height, max(32, round(0.75 * side)))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        part = np.ascontiguousarray(photo[y : y + h, x : x + w])
        return part, replace(crop, left=x, top=y)


def _rotation(rng: np.random.Generator, degrees: float) -> Matrix:
    """Random rotation by up to `degrees` about each axis (× 0.7, 0.7, 0.5 for x, y, z)."""
    vector = np.deg2rad(rng.uniform(-1, 1, 3) * degrees * np.array([0.7, 0.7, 0.5]))
    return np.asarray(cv2.Rodrigues(vector)[0], np.float64)


def _second_camera(rng: np.random.Generator) -> Matrix:
    """World to camera (4, 4): an orbit about a point of the scene, rotated and translated a bit.

    With probability 0.3 the camera also rolls by up to 90°.
    """
    orbit = _rotation(rng, 45)
    pivot = np.array([0, 0, rng.uniform(0.8, 1.8)])
    camera = np.eye(4)
    camera[:3, :3] = _rotation(rng, 12) @ orbit
    camera[:3, 3] = pivot - orbit @ pivot + rng.uniform(-0.12, 0.12, 3)
    if rng.random() < 0.3:
        roll = cv2.Rodrigues(np.array([0, 0, np.deg2rad(rng.uniform(-90, 90))]))[0]
        camera[:3] = roll @ camera[:3]
    return camera


def _texture_to_view(K: Matrix, camera: Matrix, pose: Matrix) -> Matrix:
    """Homography (3, 3) from the texture of a plane to a view."""
    points = camera[:3, :3] @ pose
    points[:, 2] += camera[:3, 3]
    return np.asarray(K @ points)


def _render(
    textures: list[Gray], to_view: list[Matrix], size: tuple[int, int]
) -> tuple[Gray, Gray]:
    """Image (H, W) and plane indices (H, W) of a view, by a depth buffer."""
    x = np.arange(size[0], dtype=np.float32)
    y = np.arange(size[1], dtype=np.float32)[:, None]
    image = np.zeros(size[::-1], np.uint8)
    planes = np.full(size[::-1], NO_PLANE, np.uint8)
    nearest = np.zeros(size[::-1], np.float32)  # inverse depth
    for i, (texture, H) in enumerate(zip(textures, to_view, strict=True)):
        if abs(np.linalg.det(H)) < 1e-12:
            continue
        # H·(u, v, 1) = depth·(x, y, 1), so H⁻¹·(x, y, 1) = (u, v, 1) / depth.
        (a, b, c), (d, e, f), (g, h, k) = np.linalg.inv(H).astype(np.float32)
        inverse = g * x + h * y + k
        u, v = a * x + b * y + c, d * x + e * y + f
        height, width = texture.shape
        visible = (inverse > nearest) & (inverse < 20) & (u >= inverse) & (v >= inverse)
        visible &= (u <= (width - 2) * inverse) & (v <= (height - 2) * inverse)
        if visible.any():
            np.copyto(image, warp_image(texture, H, size), where=visible)
            np.copyto(planes, np.uint8(i), where=visible)
            np.copyto(nearest, inverse, where=visible)
    return image, planes
