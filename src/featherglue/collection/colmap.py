"""Databases of COLMAP (Schönberger and Frahm 2016), written by pycolmap."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ConfigError, UsageError
from featherglue.io.pycolmap_ import require_pycolmap

CameraMode = Literal["auto", "single", "per-folder", "per-image"]
Pairs = Iterable[tuple[tuple[str, str], NDArray[np.int64]]]
VERSION = 3  # of the rules below: databases of other ones are made again
_MIN_ALIKE = 0.9  # share of the images; fewer may be of several cameras
_PIXEL_CENTER = 0.5  # of COLMAP's first pixel
_SEED = 0
# Minimum number of trials of RANSAC, 100 by default. It still makes three times as many as a
# confidence of 99.9 % needs, which are few where most matches are right.
_MIN_TRIALS = 10
_PRINT_FATAL = 3  # level of COLMAP's log


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """The cameras of a database.

    Attributes:
        mode: which images share a camera: those of one size without a focal length in their EXIF
            tags if at least 90 % of all are such images, and those with equal tags (auto); all
            (single), those of a folder, or none.
        model: name of COLMAP's camera model.
        params: comma-separated parameters of the model in COLMAP's order; "" estimates the focal
            length from the EXIF tags or the size.

    Raises:
        ConfigError: an unknown mode.
    """

    mode: CameraMode = "auto"
    model: str = "SIMPLE_RADIAL"
    params: str = ""

    def __post_init__(self) -> None:
        if self.mode not in get_args(CameraMode):
            raise ConfigError(
                f"camera_mode must be one of {', '.join(get_args(CameraMode))}, not {self.mode!r}"
            )


def check_camera(options: CameraOptions) -> None:
    """Check the camera model and its parameters.

    Raises:
        UsageError: an unknown model, or parameters that do not fit it.
    """
    pycolmap = require_pycolmap()
    models = sorted(pycolmap.CameraModelId.__members__.keys() - {"INVALID"})
    if options.model not in models:
        raise UsageError(f"camera_model must be one of {', '.join(models)}, not {options.model!r}")
    if not options.params:
        return
    camera = pycolmap.Camera.create_from_model_name(1, options.model, 1.0, 1, 1)
    names = camera.params_info
    try:
        values = [float(value) for value in options.params.split(",")]
    except ValueError:
        values = []
    if len(values) != len(camera.params) or not np.isfinite(values).all():
        raise UsageError(
            f"camera_params of {options.model} must be {len(camera.params)} numbers ({names}), "
            f"not {options.params!r}"
        )


def import_images(
    database: Path,
    images: str | os.PathLike[str],
    names: Sequence[str],
    cameras: CameraOptions | None = None,
) -> None:
    """Write images with cameras and GPS positions from their EXIF tags into a new database.

    Images that COLMAP cannot read are left out. With the mode "auto", images of one size without a
    known focal length share a camera if nearly all are such images, upright or wide: focal lengths
    and distortion of their own would be less accurate. COLMAP alone gives each of them its own
    camera.

    Raises:
        MissingExtraError: pycolmap is not installed.
        UsageError: an invalid camera model.
    """
    cameras = cameras or CameraOptions()
    check_camera(cameras)
    mode = cameras.mode.replace("-", "_").upper()
    _import(database, images, names, mode, cameras)
    groups = _alike_images(database) if cameras.mode == "auto" else []
    if groups:
        share_cameras(database, groups)


def _import(
    database: Path,
    images: str | os.PathLike[str],
    names: Sequence[str],
    mode: str,
    cameras: CameraOptions,
) -> None:
    """See `import_images`.

    Args:
        mode: name of COLMAP's camera mode.
    """
    pycolmap = require_pycolmap()
    options = pycolmap.ImageReaderOptions(camera_model=cameras.model, camera_params=cameras.params)
    with quiet():
        pycolmap.Database.open(database).close()  # creates it
        pycolmap.import_images(
            database, images, pycolmap.CameraMode.__members__[mode], list(names), options
        )


def _alike_images(database: Path) -> list[list[str]]:
    """Names of the images that shall share a camera, by camera; none if too few are alike."""
    with quiet(), require_pycolmap().Database.open(database) as opened:
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        images = opened.read_all_images()
    by_size: dict[tuple[int, int], list[str]] = defaultdict(list)
    by_sides: Counter[tuple[int, ...]] = Counter()
    for image in images:
        camera = cameras[image.camera_id]
        if not camera.has_prior_focal_length:
            by_size[camera.width, camera.height].append(image.name)
            by_sides[tuple(sorted((camera.width, camera.height)))] += 1
    for sides, count in by_sides.most_common(1):
        if count >= _MIN_ALIKE * len(images):
            groups = [group for size, group in by_size.items() if tuple(sorted(size)) == sides]
            return groups if len(groups) < count else []
    return []


def share_cameras(database: Path, groups: Sequence[Sequence[str]]) -> None:
    """Let the images of each group share a camera, that of the first of them.

    The database becomes that of an import of each group, and then of the other images. Its content
    is written again: to import the images again would decode them once more.
    """
    pycolmap = require_pycolmap()
    with quiet(), pycolmap.Database.open(database) as opened:
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        images = {image.name: image for image in opened.read_all_images()}
        priors = {prior.corr_data_id.id: prior for prior in opened.read_all_pose_priors()}
    database.unlink()
    first = {name: group[0] for group in groups for name in group}
    order = [*first, *(name for name in images if name not in first)]
    chosen = {name: images[first.get(name, name)].camera_id for name in order}
    written: dict[int, tuple[int, int]] = {}  # new camera and its rig, by the camera before
    with (
        quiet(),
        pycolmap.Database.open(database) as opened,
        pycolmap.DatabaseTransaction(opened),
    ):
        for name, before in chosen.items():
            if before not in written:
                written[before] = _write_camera(opened, cameras[before])
            camera, rig = written[before]
            image = pycolmap.Image(name=name, camera_id=camera)
            image.image_id = opened.write_image(image)
            frame = pycolmap.Frame(rig_id=rig)
            frame.add_data_id(image.data_id)
            opened.write_frame(frame)
            prior = priors.get(images[name].image_id)
            if prior is not None:
                prior.corr_data_id = image.data_id
                opened.write_pose_prior(prior)


def _write_camera(database: Any, camera: Any) -> tuple[int, int]:
    """Write a camera with a rig of its own. Returns the numbers of both."""
    pycolmap = require_pycolmap()
    camera.camera_id = database.write_camera(camera)
    rig = pycolmap.Rig()
    rig.add_ref_sensor(camera.sensor_id)
    return camera.camera_id, database.write_rig(rig)


def write_database(
    database: Path,
    images: str | os.PathLike[str],
    keypoints: Mapping[str, NDArray[np.float32]],
    matches: Pairs,
    cameras: CameraOptions | None = None,
) -> None:
    """Write a database with cameras, images, keypoints and matches; no two-view geometries yet.

    Images that COLMAP cannot read, and their matches, are left out.

    Args:
        database: the file, which must not exist.
        images: folder of the images.
        keypoints: (N, 2) float32 by the name of the image, in the stored frame.
        matches: names of each pair, and its matches (M, 2) as indices of keypoints.
        cameras: cameras of the images.

    Raises:
        UsageError: an invalid camera model.
    """
    pycolmap = require_pycolmap()
    import_images(database, images, list(keypoints), cameras)
    with quiet(), pycolmap.Database.open(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        with pycolmap.DatabaseTransaction(opened):
            for name, points in keypoints.items():
                if name not in ids:
                    continue
                opened.write_keypoints(ids[name], points + np.float32(_PIXEL_CENTER))
            for (name0, name1), indices in matches:
                if name0 not in ids or name1 not in ids:
                    continue
                opened.write_matches(ids[name0], ids[name1], indices.astype(np.uint32))


def verify_matches(
    database: Path, num_threads: int | None = None, pixel_scale: float = 1.0
) -> None:
    """Estimate the two-view geometry of every matched pair; the mapper reads only these.

    Args:
        database: the file.
        num_threads: maximum number of threads; None takes one per core.
        pixel_scale: see `numbered_keypoints.pixel_scale`; COLMAP's maximum error is multiplied
            by it.
    """
    pycolmap = require_pycolmap()
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.max_error *= pixel_scale
    options.ransac.random_seed = _SEED
    options.ransac.min_num_trials = _MIN_TRIALS
    verifier = pycolmap.GeometricVerifierOptions(num_threads=num_threads or -1)
    with quiet():
        pycolmap.geometric_verification(
            database, verifier_options=verifier, two_view_geometry_options=options
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Let COLMAP print nothing: its errors are exceptions, or images that it leaves out."""
    log = require_pycolmap().logging
    before = log.minloglevel
    log.minloglevel = _PRINT_FATAL
    try:
        yield
    finally:
        log.minloglevel = before
