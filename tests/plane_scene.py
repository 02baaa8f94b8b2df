"""Photographs of a textured plane, with exact poses and depth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.photographs import PhotoFolder
from featherglue.data.posed_photo import PosedPhoto

SIZE = 240, 180
K = np.array([[260, 0, 119.5], [0, 260, 89.5], [0, 0, 1.0]])
NORMAL, OFFSET = np.array([0.2, -0.1, 1.0]), 4.0  # the plane NORMAL · X = OFFSET


def pose(center: tuple[float, float, float], roll: float = 0) -> NDArray[np.float64]:
    """A camera at `center` that looks along z, turned by `roll` degrees."""
    R = cv2.Rodrigues(np.array([0, 0, np.radians(roll)]))[0]
    return np.concatenate((R, -R @ np.array([center]).T), 1)


def true_depth(camera: NDArray[np.float64]) -> NDArray[np.float32]:
    """Depth of the plane at every pixel."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    rays = np.stack((x, y, np.ones_like(x)), -1) @ np.linalg.inv(K).T
    R, center = camera[:, :3], -camera[:, :3].T @ camera[:, 3]
    return ((OFFSET - NORMAL @ center) / (rays @ (R @ NORMAL))).astype(np.float32)


def cameras() -> list[NDArray[np.float64]]:
    """A row of three, one of them turned, and one above."""
    return [pose((0, 0, 0)), pose((0.5, 0, 0)), pose((-0.5, 0.1, 0), 90), pose((0.1, -0.6, 0.1))]


def write_photos(folder: Path) -> PhotoFolder:
    """Photographs of the plane with a random texture, in a new folder."""
    noise = np.random.default_rng(0).uniform(0, 255, (300, 300)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 1.2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    folder.mkdir()
    scale = 40.0  # texture pixels per unit
    for number, camera in enumerate(cameras()):
        # Points of the plane (X, Y): Z = (OFFSET - n_x X - n_y Y) / n_z.
        plane = np.array([[1, 0, 0], [0, 1, 0], [-NORMAL[0], -NORMAL[1], OFFSET], [0, 0, 1]])
        plane[2] /= NORMAL[2]
        to_plane = np.array([[1 / scale, 0, -150 / scale], [0, 1 / scale, -150 / scale], [0, 0, 1]])
        image = cv2.warpPerspective(texture, K @ camera @ plane @ to_plane, SIZE)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return PhotoFolder(folder)


def posed_photos() -> list[PosedPhoto]:
    """The photographs with 60 common points."""
    rng = np.random.default_rng(1)
    X, Y = rng.uniform(-1, 1, (2, 60))
    positions = np.stack((X, Y, (OFFSET - NORMAL[0] * X - NORMAL[1] * Y) / NORMAL[2]), 1)
    photos = []
    for number, camera in enumerate(cameras()):
        projected = (positions @ camera[:, :3].T + camera[:, 3]) @ K.T
        photos.append(
            PosedPhoto(
                number=number,
                size=SIZE,
                K=K,
                world_to_camera=camera,
                points=np.arange(60),
                observations=(projected[:, :2] / projected[:, 2:]).astype(np.float32),
                positions=positions,
            )
        )
    return photos


def write_model(folder: Path, scene: list[PosedPhoto], photos: PhotoFolder) -> None:
    """The COLMAP model of a scene, as text."""
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(f"1 PINHOLE {SIZE[0]} {SIZE[1]} 260 260 120 90\n")
    images, tracks = [], [""] * 60
    for photo in scene:
        vector = cv2.Rodrigues(photo.world_to_camera[:, :3])[0][:, 0]
        angle = float(np.linalg.norm(vector))
        axis = vector / angle if angle else vector
        values = np.r_[np.cos(angle / 2), np.sin(angle / 2) * axis, photo.world_to_camera[:, 3]]
        row = " ".join(str(float(v)) for v in values)
        number = photo.number + 1
        images.append(f"{number} {row} 1 {photos.names[photo.number]}")
        images.append(
            " ".join(f"{x + 0.5} {y + 0.5} {i}" for i, (x, y) in enumerate(photo.observations))
        )
        for i in range(60):
            tracks[i] += f" {number} {i}"
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    points = [
        f"{i} {' '.join(map(str, photo.positions[i].tolist()))} 0 0 0 0{tracks[i]}"
        for i in range(60)
    ]
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")
