"""Real pairs from COLMAP models: matches from tracks, epipolar geometry from poses.

The overlap of two images is the ratio of the triangulated points of the one with fewer that the
other one also observes (covisibility).
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.data.depth_maps import DepthLocation, DepthMaps, DepthTransfer
from featherglue.data.photographs import PhotoFolder
from featherglue.data.posed_photo import Array, PosedPhoto
from featherglue.data.real_pairs import MIN_MATCHES, MIN_OVERLAP, RealPair, fit_fundamentals
from featherglue.errors import TrainingError, counted
from featherglue.geometry.epipolar import essential_matrix
from featherglue.io.image import check_folder
from featherglue.io.pycolmap_ import require_pycolmap

_MAX_DISTORTION = 1.5  # pixels of the photograph


class ModelPairs:
    """The pairs of photographs of COLMAP models that share enough points.

    Args:
        scenes: the photographs of each model.
        depths: their depth maps; None for none. A warning states how many pairs lack one.

    Attributes:
        overlaps: see `RealPairs`.
        scenes: (P,) int64, the number of the scene of each pair.
        have_depth: (P,) bool, whether both photographs of each pair have a depth map.

    Raises:
        TrainingError: no two photographs share enough points, or no pair has depth maps.
    """

    def __init__(self, scenes: list[list[PosedPhoto]], depths: DepthMaps | None = None) -> None:
        self._depths = depths
        self._pairs: list[tuple[PosedPhoto, PosedPhoto]] = []
        overlaps: list[float] = []
        numbers: list[int] = []
        for number, scene in enumerate(scenes):
            shared = count_shared(scene)
            for i, j in itertools.combinations(range(len(scene)), 2):
                overlap = shared[i, j] / max(1, min(shared[i, i], shared[j, j]))
                if shared[i, j] >= MIN_MATCHES and overlap >= MIN_OVERLAP:
                    self._pairs.append((scene[i], scene[j]))
                    overlaps.append(overlap)
                    numbers.append(number)
        if not overlaps:
            raise TrainingError(
                f"no two photographs of the models share {MIN_MATCHES} points and {MIN_OVERLAP:.0%}"
            )
        self.overlaps, self.scenes = np.array(overlaps), np.array(numbers)
        self.have_depth = np.zeros(len(overlaps), np.bool_)
        if depths is not None:
            known = {id(photo): depths.has(photo) for pair in self._pairs for photo in pair}
            both = [known[id(first)] and known[id(second)] for first, second in self._pairs]
            self.have_depth = np.array(both)
            self._check_depths(depths)

    def _check_depths(self, depths: DepthMaps) -> None:
        """Warn if pairs lack depth maps; raise TrainingError if all do."""
        count = int(self.have_depth.sum())
        if count == 0:
            raise TrainingError(
                f"{depths.folder}: has no depth maps of two photographs of a pair; "
                f"`featherglue depth {depths.photos.folder} MODELS -o {depths.folder}` makes them"
            )
        if count < len(self._pairs):
            warnings.warn(
                f"{depths.folder}: {count} of {len(self._pairs)} pairs have depth maps of both "
                "photographs",
                stacklevel=3,
            )

    def __getitem__(self, index: int) -> RealPair:
        """Pair `index`. Raises TrainingError if a depth map cannot be read."""
        first, second = self._pairs[index]
        _, at0, at1 = np.intersect1d(
            first.points, second.points, assume_unique=True, return_indices=True
        )
        points0, points1 = first.observations[at0], second.observations[at1]
        F = fundamental_of_poses(first, second)
        transfer = None if self._depths is None else depth_transfer(self._depths, first, second)
        return RealPair(
            numbers=(first.number, second.number),
            points0=points0,
            points1=points1,
            fundamentals=fit_fundamentals(points0, points1, F),
            transfer=transfer,
            scene=int(self.scenes[index]),
            locate=None
            if transfer is None
            else (
                DepthLocation(depth=transfer.depth0, photo=first),
                DepthLocation(depth=transfer.depth1, photo=second),
            ),
        )


def depth_transfer(
    depths: DepthMaps, first: PosedPhoto, second: PosedPhoto
) -> DepthTransfer | None:
    """The transfer by the depth maps of two photographs; None if one of them has no pixels.

    Raises:
        TrainingError: a depth map is damaged.
    """
    if not (depths.has(first) and depths.has(second)):
        return None
    depth0, depth1 = depths.read(first), depths.read(second)
    if depth0 is None or depth1 is None:
        return None
    R, t = relative_pose(first, second)
    return DepthTransfer(
        depth0=depth0,
        depth1=depth1,
        size0=first.size,
        size1=second.size,
        K0=first.K,
        K1=second.K,
        pose=np.concatenate((R, t[:, None]), 1),
    )


def count_shared(scene: list[PosedPhoto]) -> NDArray[np.int64]:
    """Number of points that each two photographs share, (I, I); on the diagonal, that each has."""
    numbers = np.concatenate([photo.points for photo in scene])
    owners = np.repeat(np.arange(len(scene)), [len(photo.points) for photo in scene])
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order])) + 1
    shared = np.zeros((len(scene), len(scene)), np.int64)
    for track in np.split(owners[order], starts):
        shared[track[:, None], track] += 1
    return shared


def relative_pose(first: PosedPhoto, second: PosedPhoto) -> tuple[Array, Array]:
    """R (3, 3) and t (3,), the first camera's coordinates to the second's."""
    R = second.world_to_camera[:, :3] @ first.world_to_camera[:, :3].T
    return R, second.world_to_camera[:, 3] - R @ first.world_to_camera[:, 3]


def fundamental_of_poses(first: PosedPhoto, second: PosedPhoto) -> Array:
    """F_0to1 (3, 3) of norm 1 of two photographs."""
    R, t = relative_pose(first, second)
    F = np.linalg.inv(second.K).T @ essential_matrix(R, t) @ np.linalg.inv(first.K)
    return np.asarray(F / max(float(np.linalg.norm(F)), 1e-300))


def read_models(folder: str | os.PathLike[str], photos: PhotoFolder) -> list[list[PosedPhoto]]:
    """Read all COLMAP models in a folder and its subfolders.

    The name of an image starts below the folder of photographs, or below a subfolder of it on the
    path of the model, or below `images` in one of these: image `0001.jpg` of the model
    `church/sparse/0` may be photograph `church/0001.jpg` or `church/images/0001.jpg`. Images
    without a photograph are ignored.

    Args:
        folder: folder of models.
        photos: the photographs, of the size in the models or scaled.

    Raises:
        MissingExtraError: pycolmap is not installed.
        ImageError: the folder does not exist.
        TrainingError: it holds no model of any of the photographs, a model cannot be read, or a
            camera has lens distortion or another aspect ratio than its photograph.
    """
    folder = Path(folder)
    check_folder(folder)
    numbers = {name: number for number, name in enumerate(photos.names)}
    paths = sorted({path.parent for path in folder.rglob("cameras.*") if _is_model(path)})
    scenes = [list(_read_model(path, folder, photos, numbers)) for path in paths]
    scenes = [scene for scene in scenes if len(scene) > 1]
    if not scenes:
        raise TrainingError(
            f"{folder}: has {counted(len(paths), 'COLMAP model')}, none with two images that are "
            f"photographs of {photos.folder}"
        )
    return scenes


def _is_model(path: Path) -> bool:
    """Whether a file with the name cameras.* belongs to a model."""
    return path.suffix in (".bin", ".txt") and path.with_stem("images").exists()


def _read_model(
    path: Path, folder: Path, photos: PhotoFolder, numbers: Mapping[str, int]
) -> Iterator[PosedPhoto]:
    """The photographs of the COLMAP model in `path`."""
    try:
        model = require_pycolmap().Reconstruction(path)
    except (ValueError, RuntimeError) as error:
        raise TrainingError(f"{path}: cannot be read as a COLMAP model ({error})") from None
    relative = path.relative_to(folder)
    above = ["" if p == Path() else f"{p.as_posix()}/" for p in (relative, *relative.parents)]
    prefixes = [prefix + below for prefix in above for below in ("", "images/")]
    for image in sorted(model.images.values(), key=lambda image: str(image.name)):
        names = [prefix + image.name for prefix in prefixes if prefix + image.name in numbers]
        if not names or not image.has_pose:
            continue
        number = numbers[names[0]]
        where = f"{path}: {image.name}"
        if photos.orientation(number) != 1:
            raise TrainingError(
                f"{where}: its photograph has an EXIF tag that turns it, but models are of the "
                "stored pixels; remove the tag, or use undistorted photographs"
            )
        yield _posed_photo(model, image, number, photos[number].shape, where)


def _posed_photo(
    model: Any, image: Any, number: int, shape: tuple[int, ...], where: str
) -> PosedPhoto:
    """A registered image of a model, with its photograph of shape (H, W)."""
    camera = image.camera
    scale = shape[1] / camera.width, shape[0] / camera.height
    if abs(scale[0] / scale[1] - 1) > 0.02:
        raise TrainingError(
            f"{where}: its camera is {camera.width}×{camera.height} px, but the photograph is "
            f"{shape[1]}×{shape[0]} px"
        )
    moved = _distortion(camera) * scale[0]
    if not moved <= _MAX_DISTORTION:
        raise TrainingError(
            f"{where}: lens distortion moves points by up to {moved:.1f} px; undistort the "
            "photographs (colmap image_undistorter), and use the new model"
        )
    # COLMAP's undistortion gives points beyond what its lens model covers no position.
    seen = [
        point
        for point in image.points2D
        if point.has_point3D()
        and model.exists_point3D(point.point3D_id)
        and np.isfinite(point.xy).all()
    ]
    pixels = np.array([point.xy for point in seen], np.float64).reshape(-1, 2)
    # COLMAP's first pixel has its center at (0.5, 0.5).
    to_photo = np.array([[scale[0], 0, -0.5], [0, scale[1], -0.5], [0, 0, 1]])
    points = np.array([point.point3D_id for point in seen], np.uint64).astype(np.int64)
    unique, first = np.unique(points, return_index=True)
    return PosedPhoto(
        number=number,
        size=(shape[1], shape[0]),
        K=to_photo @ np.asarray(camera.calibration_matrix(), np.float64),
        world_to_camera=np.asarray(image.cam_from_world().matrix(), np.float64),
        points=unique,
        observations=(pixels[first] * scale - 0.5).astype(np.float32),
        positions=np.array([model.points3D[seen[i].point3D_id].xyz for i in first]).reshape(-1, 3),
    )


def _distortion(camera: Any) -> float:
    """Maximum displacement by lens distortion, in pixels of the camera, over a grid of pixels."""
    x, y = np.linspace(0, camera.width, 9), np.linspace(0, camera.height, 9)
    pixels = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    K = np.asarray(camera.calibration_matrix(), np.float64)
    straight = np.asarray(camera.cam_from_img(pixels)) @ K[:2, :2].T + K[:2, 2]
    return float(np.linalg.norm(straight - pixels, axis=1).max())
