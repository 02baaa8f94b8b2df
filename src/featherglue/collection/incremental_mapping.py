"""Runs of COLMAP's incremental mapper with weaker conditions where the first one leaves images out.

The mapper takes a pair of images to start with, and registers one image after another from the
matches of its keypoints with points of the model. Its conditions suit SIFT: many matches, some of
them wrong. Matches that were verified on the images are fewer and more reliable.

Distortion is constant while a model grows from a pair, since few images do not determine it. It is
refined afterward. If it is strong then, or the reprojection error large, another run refines it
from the start. Runs that continue a model refine it.

"Linked" images have a verified pair with enough matches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from featherglue.collection.model_refinement import refine_model
from featherglue.io.pycolmap_ import require_pycolmap

VERSION = 3  # of the rules below: models of other ones are made again
MIN_MATCHES = 15  # of a verified pair that the mapper uses
_SEED = 0
# While a model grows, its bundle adjustments are short, since `refine_model` adjusts it at the end:
# one local adjustment for each image, and a global one whenever the model has grown by 40 %.
# COLMAP's defaults are up to two and five of them, and growth by 10 %. The criteria that end an
# adjustment are COLMAP's: with looser ones, models of roads lose images. Registration of images
# from pairs alone is disabled: it takes up to half of the time, and registers no more images.
_GROWTH = {
    "ba_local_max_refinements": 1,
    "ba_local_max_num_iterations": 5,
    "ba_global_max_refinements": 1,
    "ba_global_frames_ratio": 1.4,
    "ba_global_points_ratio": 1.4,
    "structure_less_registration_fallback": False,
}
# Conditions of the first pair. COLMAP asks for 100 inliers, 16° and motion that is not forward, and
# halves the first two twice if no pair has them. It halves these too.
_WEAK_START = {
    "init_min_num_inliers": 50,
    "init_min_tri_angle": 4.0,
    "init_max_forward_motion": 1.0,
}
_WEAK_REGISTRATION = {"abs_pose_min_num_inliers": 15}  # COLMAP asks for 30
_MIN_IMAGE_POINTS = 30  # of an image that was registered under weak conditions
_MIN_SHARE = 0.5  # of the images of the largest part; a smaller model may have had a bad start
# A model with strong distortion, or with some and a large mean reprojection error, is compared with
# one whose distortion was refined while it grew. Without distortion the error has other causes.
_STRONG_DISTORTION, _SOME_DISTORTION = 0.2, 0.01  # first parameter of COLMAP's distortion
_LARGE_ERROR = 1e-3  # of the longest side of an image

# Limits of reprojection errors, px, of the mapper and of the triangulation.
_MAPPER_LIMITS = ("init_max_error", "abs_pose_max_error", "filter_max_reproj_error")
_TRIANGULATION_LIMITS = ("merge_max_reproj_error", "complete_max_reproj_error")

OnRegistered = Callable[[int], None]


def mapping_options(
    num_threads: int | None,
    refine_cameras: bool = True,
    *,
    refine_distortion: bool = True,
    pixel_scale: float = 1.0,
    **mapper: float,
) -> Any:
    """Options of the pipeline.

    Args:
        num_threads: maximum number of threads; None takes one per core.
        refine_cameras: whether to refine focal lengths and distortion.
        refine_distortion: False keeps the distortion.
        pixel_scale: see `numbered_keypoints.pixel_scale`; limits of errors are multiplied by it.
        mapper: options of the mapper that differ from COLMAP's.
    """
    pycolmap = require_pycolmap()
    options = pycolmap.IncrementalPipelineOptions(
        random_seed=_SEED,
        num_threads=num_threads or -1,
        min_num_matches=MIN_MATCHES,
        ba_refine_focal_length=refine_cameras,
        ba_refine_extra_params=refine_cameras and refine_distortion,
        **_GROWTH,
    )
    for name, value in mapper.items():
        setattr(options.mapper, name, value)
    for part, names in (
        (options.mapper, _MAPPER_LIMITS),
        (options.triangulation, _TRIANGULATION_LIMITS),
    ):
        for name in names:
            setattr(part, name, pixel_scale * getattr(part, name))
    return options


def linked_pairs(database: Any) -> dict[tuple[int, int], int]:
    """Number of verified matches of each pair of linked images.

    Args:
        database: an open `pycolmap.Database`.
    """
    pycolmap = require_pycolmap()
    pairs, counts = database.read_two_view_geometry_num_inliers()
    return {
        pycolmap.pair_id_to_image_pair(pair): count
        for pair, count in zip(pairs, counts, strict=True)
        if count >= MIN_MATCHES
    }


def incremental_models(
    database: str | os.PathLike[str],
    images: str | os.PathLike[str],
    folder: Path,
    num_threads: int | None,
    on_registered: OnRegistered,
    refine_cameras: bool = True,
    pixel_scale: float = 1.0,
) -> list[Any]:
    """Reconstruct and refine the models of a database.

    Args:
        database: database with two-view geometries.
        images: folder of the images, for the colors of the points.
        folder: existing folder for temporary files.
        num_threads: see `mapping_options`.
        on_registered: called with the largest number of images that a model had so far.
        refine_cameras, pixel_scale: see `mapping_options`.

    Returns:
        `pycolmap.Reconstruction`s, the largest first: that with the most images that have at least
        30 points.
    """
    options = partial(mapping_options, num_threads, refine_cameras, pixel_scale=pixel_scale)
    runs = _Runs(database, images, folder, options, on_registered)
    parts = _linked_parts(database)
    linked = {image for part in parts for image in part}
    start: Mapping[str, float] = {}
    models = runs.start(start)
    if parts and _largest(models) < _MIN_SHARE * max(map(len, parts)):
        others = runs.start(_WEAK_START)
        if _largest(others) > _largest(models):
            start, models = _WEAK_START, others
    models = runs.refined(models)
    if models and refine_cameras and _may_have_bent(models[0]):
        others = runs.refined(runs.start(start, refine_distortion=True))
        if others and _quality(others) > _quality(models):
            models = others
    if models and linked - _registered(models[0]):
        largest = runs.add_images(models[0])
        found = _registered(largest)
        others = [model for model in models[1:] if not _registered(model) <= found]
        models = sorted([largest, *others], key=_size, reverse=True)
    return models


class _Runs:
    """Runs of the mapper on one database; see `incremental_models`."""

    def __init__(
        self,
        database: str | os.PathLike[str],
        images: str | os.PathLike[str],
        folder: Path,
        options: Callable[..., Any],
        on_registered: OnRegistered,
    ) -> None:
        self._database, self._images, self._folder = database, images, folder
        self._options, self._on_registered = options, on_registered
        self._most = 0

    def start(self, mapper: Mapping[str, float], *, refine_distortion: bool = False) -> list[Any]:
        """Run the mapper from scratch. Returns the models, the largest first."""
        return self._run(self._options(refine_distortion=refine_distortion, **mapper), 0, None)

    def refined(self, models: list[Any]) -> list[Any]:
        """Refine models in place. Returns them, the largest first."""
        for model in models:
            self.refine(model)
        return sorted(models, key=_size, reverse=True)

    def refine(self, model: Any) -> None:
        """Refine a model in place; see `refine_model`."""
        refine_model(self._database, model, self._options())

    def add_images(self, model: Any) -> Any:
        """Register more images under weak conditions, without those that share few points.

        Returns:
            The refined model with more images, or the model itself if none is added.
        """
        before = _registered(model)
        source = self._folder / "continued"
        source.mkdir()
        model.write(source)
        options = self._options(**_WEAK_REGISTRATION)
        options.multiple_models = False
        found = self._run(options, len(before), source)
        shutil.rmtree(source)
        if not found or not _registered(found[0]) - before:
            return model
        larger = found[0]
        self.refine(larger)
        _remove_weak_images(larger, before)
        return max(model, larger, key=_size)  # of equal ones the first

    def _run(self, options: Any, count: int, source: Path | None) -> list[Any]:
        """Models of a run, the largest first.

        Args:
            options: see `mapping_options`.
            count: number of images that are registered before.
            source: folder of a model to continue.
        """
        output = self._folder / "run"
        output.mkdir()

        def add(number: int) -> None:
            nonlocal count
            count += number
            self._most = max(self._most, count)
            self._on_registered(self._most)

        def start_model() -> None:
            nonlocal count
            if source is None:
                count = 0
                add(2)

        models = require_pycolmap().incremental_mapping(
            self._database,
            self._images,
            output,
            options,
            input_path="" if source is None else source,
            initial_image_pair_callback=start_model,
            next_image_callback=lambda: add(1),
        )
        shutil.rmtree(output)
        return sorted((models[i] for i in sorted(models)), key=_size, reverse=True)


def _remove_weak_images(model: Any, before: set[int]) -> None:
    """Remove the added images with few points, until none is left.

    Args:
        model: the model.
        before: the images that it had before.
    """
    while weak := [i for i in _registered(model) - before if not _has_enough_points(model, i)]:
        fewest = min(weak, key=lambda i: (model.images[i].num_points3D, i))
        model.deregister_frame(model.images[fewest].frame_id)


def _has_enough_points(model: Any, image: int) -> bool:
    return bool(model.images[image].num_points3D >= _MIN_IMAGE_POINTS)


def _registered(model: Any) -> set[int]:
    return set(model.reg_image_ids())


def _size(model: Any) -> tuple[int, int]:
    """The numbers of images with enough points, and of images.

    Where the camera hardly moves, COLMAP may return many images that share two or three points.
    """
    images = _registered(model)
    return sum(_has_enough_points(model, i) for i in images), len(images)


def _largest(models: list[Any]) -> int:
    """Number of images with enough points of the first model."""
    return _size(models[0])[0] if models else 0


def _may_have_bent(model: Any) -> bool:
    """Whether the images of a model may have a distortion that it did not grow with."""
    first = [
        abs(camera.params[i])
        for camera in model.cameras.values()
        for i in camera.extra_params_idxs()[:1]
    ]
    sides = [max(camera.width, camera.height) for camera in model.cameras.values()]
    large = model.compute_mean_reprojection_error() > _LARGE_ERROR * sum(sides) / len(sides)
    limit = _SOME_DISTORTION if large else _STRONG_DISTORTION
    return bool(first) and bool(max(first) > limit)


def _quality(models: list[Any]) -> tuple[int, float]:
    """The number of images with enough points of the first model, and its error, negative."""
    return _largest(models), -models[0].compute_mean_reprojection_error()


def _linked_parts(database: str | os.PathLike[str]) -> list[set[int]]:
    """The linked images, divided into parts without a verified pair between them."""
    with require_pycolmap().Database.open(database) as opened:
        linked = linked_pairs(opened)
    parts: dict[int, set[int]] = {}
    for first, second in linked:
        joined = parts.get(first, {first}) | parts.get(second, {second})
        parts |= dict.fromkeys(joined, joined)
    return list({id(part): part for part in parts.values()}.values())
