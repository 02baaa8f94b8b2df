"""COLMAP models from our features and from SIFT, compared with known camera poses.

    python benchmarks/sfm.py SCENE… --methods sift fast fast-raw balanced --json FILE

Each scene is a folder of photographs. Where the poses are known it has `poses.npz` or
`sfm_poses.npz`: `names`, with or without suffix, and `w2c` (N, 4, 4) from world to camera. SIFT is
COLMAP's with its defaults, at the same size and number of features, with exhaustive pairs for all
methods; `sift-shared` has one camera for all images. A method `NAME-raw` is without track
adjustment. Errors of camera centers follow a robust similarity onto the known centers, in percent
of their extent. They are those of the images that all methods register, if there are at least ten.
The processor time counts all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from option_types import positive

import featherglue as fg
from featherglue.collection.colmap import quiet
from featherglue.collection.mapping import summarize_model
from featherglue.io.image import list_images

SEED = 0
MIN_COMMON = 10  # images that all methods register, for errors of poses
Poses = dict[str, np.ndarray]  # stem of an image → its pose (4, 4) from world to camera


def sift(
    photos: Path,
    work: Path,
    max_size: int,
    num_keypoints: int,
    cameras: pycolmap.CameraMode = pycolmap.CameraMode.AUTO,
) -> None:
    """COLMAP with its own SIFT, on the CPU."""
    database = work / "database.db"
    extraction = pycolmap.FeatureExtractionOptions(use_gpu=False, max_image_size=max_size)
    extraction.sift.max_num_features = num_keypoints
    matching = pycolmap.FeatureMatchingOptions(use_gpu=False)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = SEED
    with quiet():
        pycolmap.extract_features(
            database,
            photos,
            camera_mode=cameras,
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
        pycolmap.match_exhaustive(
            database,
            matching_options=matching,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
        options = pycolmap.IncrementalPipelineOptions(random_seed=SEED)
        (work / "run").mkdir()
        models = pycolmap.incremental_mapping(database, photos, work / "run", options)
    largest = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
    (work / "sparse").mkdir()
    if largest is not None:  # COLMAP numbers its models in the order in which it starts them
        (work / "sparse" / "0").mkdir()
        largest.write(work / "sparse" / "0")


def ours(name: str, photos: Path, work: Path, max_size: int, num_keypoints: int) -> None:
    """Our features and matches."""
    model, _, suffix = name.partition("-")
    fg.reconstruct(
        photos,
        work,
        model=model,
        max_size=max_size,
        num_keypoints=num_keypoints,
        adjust=suffix != "raw",
    )


def known_poses(scene: Path) -> Poses | None:
    """World-to-camera poses (4, 4) by the stem of the image; None if unknown."""
    for name in ("poses.npz", "sfm_poses.npz"):
        if (scene / name).is_file():
            with np.load(scene / name, allow_pickle=False) as arrays:
                names = [Path(str(image)).stem for image in arrays["names"]]
                return dict(zip(names, arrays["w2c"], strict=True))
    return None


def align(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[Any, Any, Any]:
    """Scale, rotation and shift of the weighted similarity (Umeyama 1991) onto `target`."""
    w = weights / weights.sum()
    mean0, mean1 = w @ source, w @ target
    a, b = source - mean0, target - mean1
    U, S, Vt = np.linalg.svd((b * w[:, None]).T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(U @ Vt))])
    R = U @ np.diag(signs) @ Vt
    scale = (S * signs).sum() / (w @ np.square(a).sum(1))
    return scale, R, mean1 - scale * R @ mean0


def model_poses(model: Any) -> Poses:
    """The poses of the registered images of a model."""
    poses = {}
    for image in model.images.values():
        if image.has_pose:
            poses[Path(image.name).stem] = np.vstack(
                [image.cam_from_world().matrix(), [0, 0, 0, 1]]
            )
    return poses


def _centers(poses: np.ndarray) -> np.ndarray:
    return np.asarray(-np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3]))


def pose_errors(found_poses: Poses, poses: Poses, names: list[str]) -> dict[str, float]:
    """Median errors of camera centers (percent of the extent) and of rotations (degrees).

    Args:
        found_poses: see `model_poses`.
        poses: known poses.
        names: the images, in both.
    """
    images = np.array([found_poses[name] for name in names])
    found, rotations = _centers(images), images[:, :3, :3]
    true = np.array([poses[name] for name in names])
    centers = _centers(true)
    extent = np.linalg.norm(centers - np.median(centers, axis=0), axis=1).max()
    errors = np.full(len(images), np.inf)
    rng = np.random.default_rng(SEED)
    for _ in range(300):  # the similarity of three cameras with the least median error
        chosen = np.isin(np.arange(len(images)), rng.choice(len(images), 3, replace=False))
        scale, R, shift = align(found, centers, chosen.astype(float))
        distances = np.linalg.norm(scale * found @ R.T + shift - centers, axis=1)
        errors = min(errors, distances, key=np.median)
    for _ in range(10):  # least squares without the wrong cameras
        good = errors <= max(3 * float(np.median(errors)), 1e-3 * extent)
        scale, R, shift = align(found, centers, good.astype(float))
        errors = np.linalg.norm(scale * found @ R.T + shift - centers, axis=1)
    relative = rotations @ R.T @ true[:, :3, :3].transpose(0, 2, 1)
    mean = np.linalg.svd(relative.sum(0))  # the residual rotation between both worlds
    relative = relative @ (mean[0] @ mean[2]).T
    cosines = (np.trace(relative, axis1=1, axis2=2) - 1) / 2
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return {
        "center_percent": float(np.median(errors)) / extent * 100,
        "rotation_degrees": float(np.median(angles)),
    }


def processor_seconds() -> float:
    """Processor time of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(
    name: str, scene: Path, max_size: int, num_keypoints: int
) -> tuple[dict[str, Any], Poses]:
    """Reconstruct a scene by one method. Returns facts about the largest model, and its poses."""
    with tempfile.TemporaryDirectory() as folder:
        photos, work = Path(folder) / "photos", Path(folder) / "work"
        photos.mkdir()
        work.mkdir()
        for path in list_images(scene):
            shutil.copy(path, photos)
        run: Callable[..., None] = sift
        arguments: tuple[Any, ...] = (photos, work, max_size, num_keypoints)
        if name == "sift-shared":
            arguments = (*arguments, pycolmap.CameraMode.SINGLE)
        elif name != "sift":
            run, arguments = ours, (name, *arguments)
        start, before = time.perf_counter(), processor_seconds()
        run(*arguments)
        seconds, used = time.perf_counter() - start, processor_seconds() - before
        summary = summarize_model(work / "database.db", work / "sparse")
        result: dict[str, Any] = {
            "photos": len(list_images(photos)),
            "registered": summary.num_registered,
            "points": summary.num_points,
            "track_length": summary.mean_track_length,
            "reprojection_error": summary.mean_reprojection_error,
            "seconds": seconds,
            "processor_seconds": used,
        }
        poses: Poses = {}
        if summary.folder is not None:
            poses = model_poses(pycolmap.Reconstruction(summary.folder))
    return result, poses


def add_pose_errors(scene: Path, methods: dict[str, dict[str, Any]], found: list[Poses]) -> None:
    """Add the errors of poses to the results of the methods of a scene, in the same order."""
    poses = known_poses(scene)
    if poses is None:
        return
    common = sorted(set(poses).intersection(*found))
    for row, own in zip(methods.values(), found, strict=True):
        row["common"] = len(common)
        if len(common) >= MIN_COMMON:
            row.update(pose_errors(own, poses, common))


_COLUMNS = {
    "registered": ("registered", "{:.0f}"),
    "track_length": ("mean track length", "{:.1f}"),
    "reprojection_error": ("reprojection error, px", "{:.2f}"),
    "center_percent": ("camera centers, %", "{:.2f}"),
    "rotation_degrees": ("rotations, °", "{:.2f}"),
    "processor_seconds": ("processor time, s", "{:.0f}"),
}


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The results as a Markdown table: a row for each scene, with the methods in each cell."""
    heads = [head for head, _ in _COLUMNS.values()]
    methods = next(iter(results.values()))
    lines = [f"In each cell: {' / '.join(methods)}.", ""]
    lines += [f"| scene | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for scene, rows in results.items():
        cells = [
            " / ".join(form.format(row[name]) if name in row else "–" for row in rows.values())
            for name, (_, form) in _COLUMNS.items()
        ]
        count = next(iter(rows.values()))["photos"]
        lines.append(f"| {scene}, {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Geometric means of each method's figures divided by SIFT's, over the scenes with errors."""
    lines = []
    measured = [m for m in results.values() if "center_percent" in m.get("sift", {})]
    scenes = measured or list(results.values())
    names = dict.fromkeys(name for methods in scenes for name in methods)
    for name in names:
        parts = []
        for key in ("track_length", "center_percent", "rotation_degrees", "processor_seconds"):
            found = [
                methods[name][key] / methods["sift"][key]
                for methods in scenes
                if {name, "sift"} <= methods.keys()
                and methods[name].get(key)
                and methods["sift"].get(key)
            ]
            if found:
                parts.append(f"{key.replace('_', ' ')} {statistics.geometric_mean(found):.2f}")
        if parts:
            lines.append(f"{name} / sift: {', '.join(parts)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of photographs")
    parser.add_argument("--methods", nargs="+", default=["sift", "fast", "fast-raw", "balanced"])
    parser.add_argument("--max-size", type=positive, default=1024)
    parser.add_argument("--num-keypoints", type=positive, default=2048)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for scene in options.scenes:
        rows: dict[str, dict[str, Any]] = {}
        found = []
        for name in options.methods:
            rows[name], poses = measure(name, scene, options.max_size, options.num_keypoints)
            found.append(poses)
            print(f"{scene.name} {name}: {rows[name]}", flush=True)
        add_pose_errors(scene, rows, found)
        results[scene.name] = rows
        if options.json is not None:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    print(ratios(results))


if __name__ == "__main__":
    main()
