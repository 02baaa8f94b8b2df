"""Runs of the mapper with weaker conditions: synthetic scenes in which images have few matches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pycolmap = pytest.importorskip("pycolmap")

from featherglue.collection import incremental_mapping  # noqa: E402
from featherglue.collection.colmap import quiet  # noqa: E402
from featherglue.collection.incremental_mapping import incremental_models, mapping_options  # noqa: E402
from featherglue.collection.mapping import map_database  # noqa: E402
from featherglue.errors import OutputError  # noqa: E402

NUM_IMAGES, NUM_POINTS = 9, 160
WEAK = (7, 8, 9)  # images with few matches with the others; COLMAP ignores tracks of two images


def scene(path: Path, num_links: int, num_shared: int) -> Path:
    """Database of a scene whose last images share few points with the others.

    Args:
        path: folder to write.
        num_links: number of points that each weak image shares with the others.
        num_shared: number of points that the weak images share with each other.
    """
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1,
        num_frames_per_rig=NUM_IMAGES,
        num_points3D=NUM_POINTS,
        num_points2D_without_point3D=0,
    )
    pycolmap.set_random_seed(0)
    file = path / "database.db"
    with pycolmap.Database.open(file) as database:
        truth = pycolmap.synthesize_dataset(options, database)
        pycolmap.synthesize_noise(
            pycolmap.SyntheticNoiseOptions(point2D_stddev=0.2), truth, database
        )
        for first in range(1, NUM_IMAGES + 1):
            for second in range(first + 1, NUM_IMAGES + 1):
                weak = [i for i in (first, second) if i in WEAK]
                if weak:
                    count = num_shared if len(weak) == 2 else num_links
                    _keep(database, truth, first, second, len(weak) == 2, count)
    return file


def _keep(
    database: Any, truth: Any, first: int, second: int, from_the_end: bool, count: int
) -> None:
    """Keep the verified matches of some points."""
    geometry = database.read_two_view_geometry(first, second)
    points = truth.images[first].points2D
    numbers = np.array([points[int(i)].point3D_id for i in geometry.inlier_matches[:, 0]])
    order = np.argsort(numbers)[::-1] if from_the_end else np.argsort(numbers)
    geometry.inlier_matches = geometry.inlier_matches[order[:count]]
    database.update_two_view_geometry(first, second, geometry)


def mapped(database: Path, folder: Path) -> tuple[list[Any], list[int]]:
    """The models, and the numbers of registered images that were reported."""
    reported: list[int] = []
    folder.mkdir()
    with quiet():
        models = incremental_models(database, folder, folder, 1, reported.append)
    assert not list(folder.iterdir())
    return models, reported


def registered(model: Any) -> set[int]:
    return {i for i, image in model.images.items() if image.has_pose}


def test_images_with_few_matches_are_added(tmp_path: Path) -> None:
    models, reported = mapped(scene(tmp_path, 22, 90), tmp_path / "models")
    assert len(models) == 1 and registered(models[0]) == set(range(1, NUM_IMAGES + 1))
    assert all(models[0].images[i].num_points3D > 90 for i in WEAK)
    assert reported[-1] == NUM_IMAGES


def test_images_that_stay_weak_are_left_out(tmp_path: Path) -> None:
    models, reported = mapped(scene(tmp_path, 22, 0), tmp_path / "models")
    assert max(reported) == NUM_IMAGES
    assert registered(models[0]) == set(range(1, NUM_IMAGES + 1)) - set(WEAK)


def test_a_small_model_is_started_again_with_weaker_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, starts = incremental_mapping._Runs._run, []

    def first_fails(self: Any, options: Any, count: int, source: Path | str) -> list[Any]:
        starts.append(options.mapper.init_min_num_inliers)
        return [] if len(starts) == 1 else run(self, options, count, source)

    monkeypatch.setattr(incremental_mapping._Runs, "_run", first_fails)
    models, _ = mapped(scene(tmp_path, 90, 90), tmp_path / "models")
    assert starts == [100, 50] and len(registered(models[0])) == NUM_IMAGES


def test_without_verified_pairs_there_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "database.db"
    with pycolmap.Database.open(file) as database:
        options = pycolmap.SyntheticDatasetOptions(num_points3D=5)
        pycolmap.synthesize_dataset(options, database)
    models, reported = mapped(file, tmp_path / "models")
    assert models == [] and reported == []


def test_the_old_models_stay_if_the_new_ones_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, models = scene(tmp_path, 90, 90), tmp_path / "sparse"
    assert map_database(file, tmp_path, models, num_threads=1) == 1
    before = (models / "0" / "images.bin").read_bytes()
    move = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.name == ".sparse.partial":
            raise OSError("no permission")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match="no permission"):
        map_database(file, tmp_path, models, num_threads=1)
    assert (models / "0" / "images.bin").read_bytes() == before
    assert not list(tmp_path.glob(".sparse*"))


def without(model: Any, *images: int) -> Any:
    """A copy of a model in which some images are not registered."""
    copy = pycolmap.Reconstruction(model)
    for image in images:
        copy.deregister_frame(copy.images[image].frame_id)
    return copy


def test_models_are_ordered_after_their_refinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = scene(tmp_path, 90, 90)
    [whole], _ = mapped(file, tmp_path / "models")
    large, small = without(whole, 9), without(whole, 1, 2)

    def refine(runs: Any, model: Any) -> None:
        if model is large:  # loses images, so that it is the smaller one
            for image in (4, 5, 6):
                model.deregister_frame(model.images[image].frame_id)

    monkeypatch.setattr(incremental_mapping._Runs, "start", lambda *args: [large, small])
    monkeypatch.setattr(incremental_mapping._Runs, "refine", refine)
    monkeypatch.setattr(incremental_mapping._Runs, "add_images", lambda runs, model: model)
    models, _ = mapped(file, tmp_path / "ordered")
    assert [len(registered(model)) for model in models] == [7, 5]


def test_models_within_the_enlarged_one_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = scene(tmp_path, 90, 90)
    [whole], _ = mapped(file, tmp_path / "models")
    found = [without(whole, 7, 8, 9), without(whole, 1, 2, 3, 4), without(whole, 1, 2, 3, 9)]
    larger = without(whole, 9)
    monkeypatch.setattr(incremental_mapping._Runs, "start", lambda *args: found)
    monkeypatch.setattr(incremental_mapping._Runs, "refine", lambda *args: None)
    monkeypatch.setattr(incremental_mapping._Runs, "add_images", lambda *args: larger)
    models, _ = mapped(file, tmp_path / "enlarged")
    # The second model has image 9, which the enlarged one has not; the third lies within it.
    assert [registered(model) for model in models] == [registered(larger), registered(found[1])]


def test_calibrated_cameras_stay_as_they_are(tmp_path: Path) -> None:
    file, models = scene(tmp_path, 90, 90), tmp_path / "sparse"
    with pycolmap.Database.open(file) as database:
        camera = database.read_all_cameras()[0]
        camera.params = camera.params * np.array([1.01, *[1] * (len(camera.params) - 1)])
        database.update_camera(camera)
    for refine in (False, True):
        map_database(file, tmp_path, models, num_threads=1, refine_cameras=refine)
        found = pycolmap.Reconstruction(models / "0").cameras[camera.camera_id].params
        assert np.array_equal(found, camera.params) is not refine
    assert abs(found[0] / camera.params[0] - 1 / 1.01) < 2e-3


@pytest.mark.parametrize(("distortion", "runs"), [(0.02, [False]), (-0.4, [False, True])])
def test_strong_distortion_is_refined_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distortion: float, runs: list[bool]
) -> None:
    params = [700, 512, 384, distortion]
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1,
        num_frames_per_rig=NUM_IMAGES,
        num_points3D=NUM_POINTS,
        camera_model_id=pycolmap.CameraModelId.SIMPLE_RADIAL,
        camera_params=params,
    )
    pycolmap.set_random_seed(0)
    with pycolmap.Database.open(tmp_path / "database.db") as database:
        pycolmap.synthesize_dataset(options, database)
        for camera in database.read_all_cameras():
            camera.params = [*params[:3], 0]
            database.update_camera(camera)
    run, refined = incremental_mapping._Runs._run, []

    def noted(self: Any, options: Any, count: int, source: Path | None) -> list[Any]:
        refined.append(options.ba_refine_extra_params)
        return run(self, options, count, source)

    monkeypatch.setattr(incremental_mapping._Runs, "_run", noted)
    models, _ = mapped(tmp_path / "database.db", tmp_path / "models")
    assert refined == runs and len(registered(models[0])) == NUM_IMAGES
    for camera in models[0].cameras.values():
        assert camera.params[3] == pytest.approx(distortion, abs=1e-3)


def test_a_failed_run_with_distortion_keeps_the_first_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, refined = incremental_mapping._Runs._run, []

    def second_fails(self: Any, options: Any, count: int, source: Path | None) -> list[Any]:
        refined.append(options.ba_refine_extra_params)
        return [] if options.ba_refine_extra_params else run(self, options, count, source)

    monkeypatch.setattr(incremental_mapping._Runs, "_run", second_fails)
    monkeypatch.setattr(incremental_mapping, "_LARGE_ERROR", 0.0)
    monkeypatch.setattr(incremental_mapping, "_SOME_DISTORTION", -1.0)
    models, _ = mapped(scene(tmp_path, 90, 90), tmp_path / "models")
    assert refined == [False, True] and len(registered(models[0])) == NUM_IMAGES


def test_an_error_is_large_relative_to_the_image(tmp_path: Path) -> None:
    [model], _ = mapped(scene(tmp_path, 90, 90), tmp_path / "models")
    error = model.compute_mean_reprojection_error()
    for camera in model.cameras.values():
        camera.params = [*camera.params[:3], 0.02]
    for factor, bent in ((500, True), (2000, False)):
        for camera in model.cameras.values():
            camera.width = camera.height = round(factor * error)
        assert incremental_mapping._may_have_bent(model) is bent
    for camera in model.cameras.values():  # a large error without distortion has another cause
        camera.width = camera.height = round(500 * error)
        camera.params = [*camera.params[:3], 0.001]
    assert not incremental_mapping._may_have_bent(model)


def test_limits_of_errors_follow_the_scale_of_the_photographs() -> None:
    own, scaled = mapping_options(1), mapping_options(1, pixel_scale=4.0)
    assert (
        own.mapper.filter_max_reproj_error
        == pycolmap.IncrementalMapperOptions().todict()["filter_max_reproj_error"]
    )
    assert scaled.mapper.filter_max_reproj_error == 4 * own.mapper.filter_max_reproj_error
    assert scaled.mapper.abs_pose_max_error == 4 * own.mapper.abs_pose_max_error
    assert scaled.triangulation.merge_max_reproj_error == (
        4 * own.triangulation.merge_max_reproj_error
    )
    assert scaled.mapper.filter_min_tri_angle == own.mapper.filter_min_tri_angle
