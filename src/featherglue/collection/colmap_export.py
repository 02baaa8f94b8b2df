"""A COLMAP database from a feature file and a match file."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from featherglue.collection.colmap import (
    CameraOptions,
    check_camera,
    quiet,
    verify_matches,
    write_database,
)
from featherglue.collection.numbered_keypoints import (
    NumberedKeypoints,
    pixel_scale,
    read_matches,
)
from featherglue.collection.store import Store
from featherglue.errors import FeatherglueError, OutputError, StoreError, short_reason
from featherglue.io.image import check_folder
from featherglue.io.pycolmap_ import require_pycolmap


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The content of a database.

    Attributes:
        database: the file.
        num_images: number of images.
        num_cameras: number of cameras; images that share one have the same focal length.
        unreadable: names of the images that COLMAP cannot read, which are left out.
        num_pairs: number of pairs with matches.
        num_verified_pairs: number of pairs with a two-view geometry.
        num_matches: number of matches.
    """

    database: Path
    num_images: int
    num_cameras: int
    unreadable: tuple[str, ...]
    num_pairs: int
    num_verified_pairs: int
    num_matches: int


def export_colmap(
    images: str | os.PathLike[str],
    feature_file: str | os.PathLike[str],
    match_file: str | os.PathLike[str],
    database: str | os.PathLike[str],
    *,
    cameras: CameraOptions | None = None,
    num_threads: int | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Write a COLMAP database with cameras, keypoints and verified matches.

    Args:
        images: folder of the images.
        feature_file: see `extract_features` and `adjust_collection`.
        match_file: see `match_features` and `adjust_collection`.
        database: the file to write.
        cameras: camera model, parameters, and which images share a camera.
        num_threads: maximum number of threads; None takes one per core.
        overwrite: replace an existing database.

    Raises:
        MissingExtraError: pycolmap is not installed.
        ImageError: `images` is no folder.
        OutputError: the database exists, and not `overwrite`; or it cannot be written.
        StoreError: a file cannot be read, or a match has no keypoint.
        UsageError: an invalid camera model.
    """
    target = Path(database)
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists; choose another file, or use `overwrite`")
    cameras = cameras or CameraOptions()
    check_camera(cameras)
    check_folder(images)
    with Store(feature_file) as features, Store(match_file) as matches:
        keypoints = NumberedKeypoints(features)
        pairs = ((names, indices) for names, indices, _ in read_matches(matches, keypoints))
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_database(partial, images, keypoints.points, pairs, cameras)
            scale = pixel_scale(keypoints.frames.values())
            verify_matches(partial, num_threads, scale)
            partial.replace(target)
        except FeatherglueError:
            raise
        except (OSError, RuntimeError, ValueError) as error:  # of COLMAP and SQLite
            raise OutputError(f"{target}: cannot be written ({error})") from None
        finally:
            _remove_partial(target)
    return describe_database(target, keypoints.points)


def _remove_partial(target: Path) -> None:
    """Remove unfinished databases, also of a run that was killed."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.partial*"):
        path.unlink(missing_ok=True)


def describe_database(
    database: str | os.PathLike[str], names: Collection[str] = ()
) -> ExportResult:
    """Count the content of a database.

    Args:
        database: the file.
        names: names of the images that it should have.

    Raises:
        StoreError: the database is damaged.
    """
    pycolmap = require_pycolmap()
    try:
        with quiet(), pycolmap.Database.open(database) as opened:
            _, counts = opened.read_two_view_geometry_num_inliers()
            return ExportResult(
                database=Path(database),
                num_images=opened.num_images(),
                num_cameras=opened.num_cameras(),
                unreadable=tuple(sorted({*names} - {i.name for i in opened.read_all_images()})),
                num_pairs=opened.num_matched_image_pairs(),
                num_verified_pairs=sum(count > 0 for count in counts),
                num_matches=opened.num_matches(),
            )
    except (OSError, RuntimeError, ValueError) as error:  # of COLMAP and SQLite
        raise StoreError(f"{database}: damaged ({short_reason(error)})") from None
