"""Databases of COLMAP (Schönberger and Frahm 2016), written by pycolmap."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ConfigError, UsageError
from featherglue.io.pycolmap_ import require_pycolmap

CameraMode = Literal["auto", "single", "per-folder", "per-image"]
Pairs = Iterable[tuple[tuple[str, str], NDArray[np.int64]]]
VERSION = 2  # of the rules below: databases of other ones are made again
_PIXEL_CENTER = 0.5  # of COLMAP's first pixel
_SEED = 0
_PRINT_FATAL = 3  # level of COLMAP's log


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """The cameras of a database.

    Attributes:
        mode: which images share a camera: all if they have one size and no focal length in their
            EXIF tags, else those with equal tags (auto); all (single), those of a folder, or none.
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
    known focal length share a camera: focal lengths and distortion of their own would be less
    accurate. COLMAP alone gives each of them its own camera. They are read twice.

    Raises:
        MissingExtraError: pycolmap is not installed.
        UsageError: an invalid camera model.
    """
    cameras = cameras or CameraOptions()
    check_camera(cameras)
    mode = cameras.mode.replace("-", "_").upper()
    _import(database, images, names, mode, cameras)
    if cameras.mode == "auto" and _cameras_are_alike(database):
        database.unlink()
        _import(database, images, names, "SINGLE", cameras)


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


def _cameras_are_alike(database: Path) -> bool:
    """Whether a database has several cameras of one size, none with a known focal length."""
    with quiet(), require_pycolmap().Database.open(database) as opened:
        cameras = opened.read_all_cameras()
    sizes = {(camera.width, camera.height) for camera in cameras}
    known = any(camera.has_prior_focal_length for camera in cameras)
    return len(cameras) > 1 and len(sizes) == 1 and not known


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


def verify_matches(database: Path, num_threads: int | None = None) -> None:
    """Estimate the two-view geometry of every matched pair; the mapper reads only these.

    Args:
        database: the file.
        num_threads: maximum number of threads; None takes one per core.
    """
    pycolmap = require_pycolmap()
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = _SEED
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
