"""A sparse model from a COLMAP database, by COLMAP's incremental mapper."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.collection.colmap import quiet
from featherglue.collection.incremental_mapping import (
    incremental_models,
    linked_pairs,
)
from featherglue.errors import OutputError, StoreError, UsageError, short_reason
from featherglue.fingerprint import file_fingerprint, fingerprint
from featherglue.io.pycolmap_ import require_pycolmap


@dataclass(frozen=True, kw_only=True)
class ImageSummary:
    """One image of a model.

    Attributes:
        name: name of the image.
        num_keypoints: number of keypoints.
        num_pairs: number of verified pairs with this image.
        num_points: number of keypoints with a point of the model.
        error: px, mean reprojection error; None if it is not registered.
        reason: why it is not registered; "" if it is.
    """

    name: str
    num_keypoints: int
    num_pairs: int
    num_points: int
    error: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """A sparse model; the largest if there are several.

    Attributes:
        folder: folder of the model in COLMAP's binary format; None if there is no model.
        num_models: number of models.
        num_registered: number of registered images.
        num_points: number of points.
        mean_track_length: mean number of images of a point.
        mean_reprojection_error: px, in the images as they are stored.
        images: every image of the database, in the order of the names.
    """

    folder: Path | None
    num_models: int = 0
    num_registered: int = 0
    num_points: int = 0
    mean_track_length: float = 0.0
    mean_reprojection_error: float = 0.0
    images: tuple[ImageSummary, ...] = field(default=(), repr=False)


def map_database(
    database: str | os.PathLike[str],
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    num_threads: int | None = None,
    refine_cameras: bool = True,
    pixel_scale: float = 1.0,
    registered: Callable[[int], None] | None = None,
) -> int:
    """Reconstruct the models of a database.

    Args:
        database: database with two-view geometries.
        images: folder of the images, for the colors of the points.
        output: folder to write; `0` is the largest model, `1` the next one (see
            `incremental_models`). It is replaced.
        num_threads: maximum number of threads; None takes one per core.
        refine_cameras: whether to refine focal lengths and distortion.
        pixel_scale: see `numbered_keypoints.pixel_scale`; limits of errors are multiplied by it.
        registered: called with the largest number of images that a model had so far.

    Returns:
        The number of models; 0 if the images do not overlap.

    Raises:
        OutputError: the folder cannot be written.
        UsageError: cameras of several sizes are not to be refined.
    """
    if not refine_cameras:
        _check_sizes(database)
    target = Path(output)
    partial, old = (target.with_name(f".{target.name}.{word}") for word in ("partial", "old"))
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        with quiet():
            models = incremental_models(
                database,
                images,
                partial,
                num_threads,
                registered or (lambda count: None),
                refine_cameras,
                pixel_scale,
            )
            for number, model in enumerate(models):
                (partial / str(number)).mkdir()
                model.write(partial / str(number))
        if target.exists():
            target.replace(old)
        try:
            partial.replace(target)
        except OSError:
            if old.exists():
                old.replace(target)
            raise
    except (OSError, ValueError) as error:
        raise OutputError(f"{target}: cannot be written ({error})") from None
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return len(models)


def _check_sizes(database: str | os.PathLike[str]) -> None:
    """Raise UsageError if cameras differ in size: they have the same given parameters."""
    with require_pycolmap().Database.open(database) as opened:
        sizes = sorted({(camera.width, camera.height) for camera in opened.read_all_cameras()})
    if len(sizes) > 1:
        found = ", ".join(f"{width}×{height}" for width, height in sizes)
        raise UsageError(
            f"`camera_params` are those of one camera, but the photographs have several sizes "
            f"({found}); refine the cameras, or reconstruct each size on its own"
        )


def summarize_model(
    database: str | os.PathLike[str], models: str | os.PathLike[str]
) -> ModelSummary:
    """Describe the largest model of a folder, and every image of its database.

    Args:
        database: the file.
        models: folder that `map_database` wrote.

    Raises:
        StoreError: a model or the database is damaged.
    """
    try:
        with quiet():
            return _summary(database, models)
    except (OSError, RuntimeError, ValueError, IndexError) as error:  # of COLMAP and SQLite
        raise StoreError(f"{models}: damaged ({short_reason(error)})") from None


def _summary(database: str | os.PathLike[str], models: str | os.PathLike[str]) -> ModelSummary:
    pycolmap = require_pycolmap()
    folders = sorted(path for path in Path(models).iterdir() if path.is_dir())
    model = pycolmap.Reconstruction(folders[0]) if folders else None
    with pycolmap.Database.open(database) as opened:
        stored = {image.name: image.image_id for image in opened.read_all_images()}
        counts = {
            name: opened.num_keypoints_for_image(i) if opened.exists_keypoints(i) else 0
            for name, i in stored.items()
        }
        pairs = _linked_images(opened)
    registered = {} if model is None else {image.name: image for image in model.images.values()}
    found = {name for name, image in registered.items() if image.has_pose}
    summaries = tuple(
        _image_summary(name, counts[name], pairs.get(i, {}), model, registered, found, stored)
        for name, i in sorted(stored.items())
    )
    if model is None:
        return ModelSummary(folder=None, images=summaries)
    return ModelSummary(
        folder=folders[0],
        num_models=len(folders),
        num_registered=len(found),
        num_points=model.num_points3D(),
        mean_track_length=model.compute_mean_track_length(),
        mean_reprojection_error=model.compute_mean_reprojection_error(),
        images=summaries,
    )


def write_points(model: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the points of a model with their colors as a PLY file.

    Raises:
        OutputError: the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial.ply")
    try:
        require_pycolmap().Reconstruction(model).export_PLY(partial)
        partial.replace(target)
    except (OSError, ValueError) as error:
        raise OutputError(f"{target}: cannot be written ({error})") from None
    finally:
        partial.unlink(missing_ok=True)


def model_fingerprint(models: Path) -> str:
    """Fingerprint of the files of a folder of models."""
    paths = sorted(models.glob("*/*.bin"))
    return fingerprint({str(p.relative_to(models)): file_fingerprint(p) for p in paths})


def _linked_images(database: Any) -> dict[int, dict[int, int]]:
    """Number of verified matches by image and by the other image."""
    pairs: dict[int, dict[int, int]] = {}
    for (first, second), count in linked_pairs(database).items():
        pairs.setdefault(first, {})[second] = count
        pairs.setdefault(second, {})[first] = count
    return pairs


def _image_summary(
    name: str,
    num_keypoints: int,
    pairs: Mapping[int, int],
    model: Any,
    registered: Mapping[str, Any],
    found: set[str],
    stored: Mapping[str, int],
) -> ImageSummary:
    if name in found:
        points = [point for point in registered[name].points2D if point.has_point3D()]
        errors = [model.points3D[point.point3D_id].error for point in points]
        return ImageSummary(
            name=name,
            num_keypoints=num_keypoints,
            num_pairs=len(pairs),
            num_points=len(points),
            error=float(np.mean(errors)) if errors else None,
            reason="",
        )
    inside = {stored[other] for other in found} & pairs.keys()
    if num_keypoints == 0:
        reason = "no keypoints"
    elif not pairs:
        reason = "no verified pair: it overlaps with no other image"
    elif not found:
        reason = "no pair of images could start a model"
    elif not inside:
        reason = "no verified pair with an image of the model"
    else:
        reason = f"too few points of the model; verified pairs with {len(inside)} of its images"
    return ImageSummary(
        name=name,
        num_keypoints=num_keypoints,
        num_pairs=len(pairs),
        num_points=0,
        error=None,
        reason=reason,
    )
