"""COLMAP's incremental mapper in several runs, so that no image is left out without need.

The mapper takes a pair of images to start with, and registers one image after another from the
matches of its keypoints with points of the model. Its defaults suit SIFT: many matches, some of
them wrong. Matches that were verified on the images are fewer and more reliable, so that other runs
follow with weaker conditions where the first one leaves images out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featherglue.io.pycolmap_ import require_pycolmap

MIN_MATCHES = 15  # of a verified pair that the mapper uses
_SEED = 0
# While a model grows, its bundle adjustments are short, since `refine_model` adjusts it at the end:
# one run of the local one, and one of that of all images when the model has grown by two fifths.
# COLMAP's defaults are up to two and five runs, and growth by a tenth.
_GROWTH = {
    "ba_local_max_refinements": 1,
    "ba_local_max_num_iterations": 5,
    "ba_global_max_refinements": 1,
    "ba_global_frames_ratio": 1.4,
    "ba_global_points_ratio": 1.4,
}
# A pair that may start a model: COLMAP asks for 100 inliers, 16° and motion that is not forward.
_WEAK_START = {
    "init_min_num_inliers": 50,
    "init_min_tri_angle": 4.0,
    "init_max_forward_motion": 1.0,
}
_WEAK_REGISTRATION = {"abs_pose_min_num_inliers": 15}  # COLMAP asks for 30
_MIN_POINTS = 30  # of an image that was registered under weak conditions
_LARGE = 0.5  # share of the linked images; a smaller model may have had a bad start

Registered = Callable[[int], None]


def mapping_options(num_threads: int | None, **mapper: float) -> Any:
    """Options of the pipeline.

    Args:
        num_threads: maximum number of threads; None takes one per core.
        mapper: options of the mapper that differ from COLMAP's.
    """
    pycolmap = require_pycolmap()
    options = pycolmap.IncrementalPipelineOptions(
        random_seed=_SEED, num_threads=num_threads or -1, **_GROWTH
    )
    for name, value in mapper.items():
        setattr(options.mapper, name, value)
    return options


def incremental_models(
    database: str | os.PathLike[str],
    images: str | os.PathLike[str],
    folder: Path,
    num_threads: int | None,
    registered: Registered,
) -> list[Any]:
    """Reconstruct the models of a database, the largest first.

    Args:
        database: database with two-view geometries.
        images: folder of the images, for the colors of the points.
        folder: existing folder for temporary files.
        num_threads: see `mapping_options`.
        registered: called with the number of registered images after each of them.
    """
    runs = _Runs(database, images, folder, num_threads, registered)
    linked = _linked_images(database)
    models = runs.start({})
    if _largest(models) < _LARGE * len(linked):
        models = max(models, runs.start(_WEAK_START), key=_largest)
    if models and _largest(models) < len(linked):
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
        num_threads: int | None,
        registered: Registered,
    ) -> None:
        self._database, self._images, self._folder = database, images, folder
        self._num_threads, self._registered = num_threads, registered

    def start(self, mapper: Mapping[str, float]) -> list[Any]:
        """New models, the largest first."""
        options = mapping_options(self._num_threads, **mapper)
        return self._run(options, 0, "")

    def add_images(self, model: Any) -> Any:
        """Register more images under weak conditions; those that stay weak are removed again."""
        before = _registered(model)
        source = self._folder / "continued"
        source.mkdir()
        model.write(source)
        options = mapping_options(self._num_threads, **_WEAK_REGISTRATION)
        options.multiple_models = False
        found = self._run(options, len(before), source)
        shutil.rmtree(source)
        if not found:
            return model
        _remove_weak_images(found[0], before)
        return found[0]

    def _run(self, options: Any, count: int, source: Path | str) -> list[Any]:
        output = self._folder / "run"
        output.mkdir()

        def step() -> None:
            nonlocal count
            count += 1
            self._registered(count)

        models = require_pycolmap().incremental_mapping(
            self._database,
            self._images,
            output,
            options,
            input_path=source,
            next_image_callback=step,
        )
        shutil.rmtree(output)
        return sorted((models[i] for i in sorted(models)), key=_size, reverse=True)


def _remove_weak_images(model: Any, before: set[int]) -> None:
    """Remove the images that a run added and that share few points with the model."""
    for i in sorted(_registered(model) - before):
        image = model.images[i]
        if image.num_points3D < _MIN_POINTS:
            model.deregister_frame(image.frame_id)


def _registered(model: Any) -> set[int]:
    return {i for i, image in model.images.items() if image.has_pose}


def _size(model: Any) -> tuple[int, int]:
    """The numbers of images with enough points, and of images.

    Where the camera hardly moves, COLMAP may return many images that share two or three points.
    """
    images = [model.images[i] for i in _registered(model)]
    return sum(image.num_points3D >= _MIN_POINTS for image in images), len(images)


def _largest(models: list[Any]) -> int:
    """Number of images with enough points of the first model."""
    return _size(models[0])[0] if models else 0


def _linked_images(database: str | os.PathLike[str]) -> set[int]:
    """The images with a verified pair that the mapper uses."""
    pycolmap = require_pycolmap()
    with pycolmap.Database.open(database) as opened:
        pairs, counts = opened.read_two_view_geometry_num_inliers()
    return {
        image
        for pair, count in zip(pairs, counts, strict=True)
        if count >= MIN_MATCHES
        for image in pycolmap.pair_id_to_image_pair(pair)
    }
