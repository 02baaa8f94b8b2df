"""A folder of photographs becomes a COLMAP model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pycolmap
import pytest
from board_scene import FOCAL, SIZE, Scene

from featherglue import cli
from featherglue.collection import reconstruction
from featherglue.collection.adjustment import adjust_collection
from featherglue.collection.colmap_export import export_colmap
from featherglue.collection.extraction import SessionSource
from featherglue.collection.mapping import ImageSummary, ModelSummary
from featherglue.collection.model_refinement import refine_model
from featherglue.collection.reconstruction import reconstruct
from featherglue.collection.reconstruction_result import Reconstruction, StepProgress
from featherglue.collection.records import Record
from featherglue.collection.second_round import pairs_to_search
from featherglue.collection.store import Store, write_store
from featherglue.errors import ImageError, OutputError, StoredFileWarning, StoreError
from featherglue.options import SessionOptions

NUM_KEYPOINTS = 400


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def result(scene: Scene, work: Path) -> Reconstruction:
    return reconstruct(scene.folder, work, num_keypoints=NUM_KEYPOINTS, workers=1)


def center_errors(model: pycolmap.Reconstruction, scene: Scene) -> np.ndarray:
    """Distances of the camera centers from the true ones, after a similarity (Umeyama 1991)."""
    names = [f"{i}.png" for i in range(5)] + ["zur Tür/letztes Bild.png"]
    of_name = {image.name: image for image in model.images.values()}
    centers = np.array([of_name[name].projection_center() for name in names])
    a, b = centers - centers.mean(0), scene.centers - scene.centers.mean(0)
    U, S, Vt = np.linalg.svd(b.T @ a)
    R = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
    scale = S @ [1, 1, np.linalg.det(U @ Vt)] / np.square(a).sum()
    return np.linalg.norm(scale * a @ R.T - b, axis=1)


def test_every_photograph_is_registered_at_its_place(scene: Scene, result: Reconstruction) -> None:
    assert result.model is not None and result.model.folder is not None
    assert result.model.num_registered == 6
    assert result.model.mean_reprojection_error < 0.3
    model = pycolmap.Reconstruction(result.model.folder)
    errors = center_errors(model, scene)
    assert np.median(errors) < 0.03  # of a path that is 3.4 long


def test_wrong_observations_do_not_bend_a_refined_model(
    scene: Scene, result: Reconstruction, work: Path
) -> None:
    assert result.model is not None and result.model.folder is not None
    options = pycolmap.IncrementalPipelineOptions(random_seed=0, num_threads=1)
    model = pycolmap.Reconstruction(result.model.folder)
    first = list(model.images)[:3]
    wrong = [(i, n) for i in first for n in range(0, len(model.images[i].points2D), 8)]
    for i, n in wrong:
        model.images[i].points2D[n].xy += [3.0, 1.0]
    squared = pycolmap.Reconstruction(model)
    pycolmap.bundle_adjustment(squared)
    refine_model(work / "database.db", model, options)
    bent, robust = (float(np.median(center_errors(m, scene))) for m in (squared, model))
    assert robust < 0.03
    assert robust < 0.5 * bent
    kept = [model.images[i].points2D[n].has_point3D() for i, n in wrong]
    others = [point.has_point3D() for image in model.images.values() for point in image.points2D]
    assert np.mean(kept) < 0.2 * np.mean(others)


def test_the_work_folder_is_complete(result: Reconstruction, work: Path) -> None:
    files = {path.name for path in work.iterdir()}
    assert files == {
        "adjusted_features.h5",
        "adjusted_pairs.txt",
        "adjusted_matches.h5",
        "database.db",
        "features.h5",
        "index.html",
        "manifest.json",
        "matches.h5",
        "pairs.txt",
        "points.ply",
        "sparse",
    }
    assert (work / "points.ply").read_bytes().startswith(b"ply")
    page = (work / "index.html").read_text(encoding="utf-8")
    assert "6 of 6 photographs" in page
    assert page.count("data:image/png;base64,") == 2


def test_files_have_the_layout_of_hloc(result: Reconstruction, work: Path) -> None:
    name = "zur Tür/letztes Bild.png"
    with h5py.File(work / "features.h5") as features:
        group = features[name]
        count = len(group["keypoints"])
        assert group["keypoints"].shape == (count, 2)
        assert group["keypoints"].dtype == np.float32
        assert group["descriptors"].shape[1] == count
        assert group["scores"].shape == (count,)
        assert group["image_size"][()].tolist() == [400, 300]
    with h5py.File(work / "matches.h5") as matches:
        group = matches["4.png"]["zur Tür-letztes Bild.png"]
        partner = group["matches0"][()]
        assert group["matching_scores0"].shape == partner.shape
        assert partner.min() == -1
        assert partner.max() < count
        assert ((partner >= 0) == (group["matching_scores0"][()] > 0)).all()


def test_a_second_run_reuses_everything(scene: Scene, result: Reconstruction, work: Path) -> None:
    before = {name: (work / name).read_bytes() for name in ("features.h5", "matches.h5")}
    seen: list[StepProgress] = []
    again = reconstruct(
        scene.folder, work, num_keypoints=NUM_KEYPOINTS, workers=1, progress=seen.append
    )
    assert seen == []
    assert {name: (work / name).read_bytes() for name in before} == before
    assert again.model == result.model


def copied(work: Path, folder: Path, **noted: Any) -> Path:
    """A copy of a work folder whose notes have no choice of pairs to search but that of `noted`."""
    shutil.copytree(work, folder / "work")
    manifest = json.loads((work / "manifest.json").read_text())
    assert manifest.pop("searched")["pairs"] == []
    (folder / "work/manifest.json").write_text(json.dumps({**manifest, **noted}))
    return folder / "work"


def test_pairs_of_missing_photographs_are_searched(
    scene: Scene,
    result: Reconstruction,
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied(work, tmp_path)
    pairs = [("0.png", "4.png"), ("3.png", "zur Tür/letztes Bild.png")]
    monkeypatch.setattr(reconstruction, "pairs_to_search", lambda *_: pairs)
    arguments: dict[str, Any] = {"num_keypoints": NUM_KEYPOINTS, "workers": 1}
    found = reconstruct(scene.folder, tmp_path / "work", **arguments)
    assert found.model is not None and found.model.num_registered == 6
    assert found.num_searched == 2
    with Store(tmp_path / "work/matches.h5") as after, Store(work / "matches.h5") as before:
        states = [
            {key: value["fingerprint"] for key, value in store.attributes().items()}
            for store in (after, before)
        ]
        assert {key for key in states[0] if states[0][key] != states[1][key]} == {*pairs}
        # The search adds matches to pairs that are far apart.
        for key in pairs:
            counts = [(store.read(key).arrays["matches0"] >= 0).sum() for store in (after, before)]
            assert counts[0] > 10
    monkeypatch.setattr(reconstruction, "pairs_to_search", lambda *_: [])
    seen: list[StepProgress] = []
    again = reconstruct(scene.folder, tmp_path / "work", progress=seen.append, **arguments)
    assert seen == []
    assert again.model == found.model


def test_a_second_model_with_fewer_photographs_is_not_kept(
    scene: Scene,
    result: Reconstruction,
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied(work, tmp_path, searched="damaged")
    monkeypatch.setattr(reconstruction, "pairs_to_search", lambda *_: [("0.png", "4.png")])
    summarize, num_calls = reconstruction.summarize_model, 0

    def second_is_worse(database: Any, models: Any) -> ModelSummary:
        nonlocal num_calls
        num_calls += 1
        found = summarize(database, models)
        return dataclasses.replace(found, num_registered=5) if num_calls == 2 else found

    monkeypatch.setattr(reconstruction, "summarize_model", second_is_worse)
    found = reconstruct(scene.folder, tmp_path / "work", num_keypoints=NUM_KEYPOINTS, workers=1)
    assert num_calls == 3
    assert found.num_searched == 0
    assert found.model is not None and result.model is not None
    assert found.model.images == result.model.images
    with Store(tmp_path / "work/matches.h5") as after, Store(work / "matches.h5") as before:
        assert after.attributes() == before.attributes()
        for key in before.sorted_keys():
            arrays = [store.read(key).arrays["matches0"] for store in (after, before)]
            np.testing.assert_array_equal(*arrays)


def image_summary(name: str, error: float | None) -> ImageSummary:
    return ImageSummary(
        name=name, num_keypoints=0, num_pairs=0, num_points=0, error=error, reason=""
    )


def test_the_best_pairs_of_missing_photographs_are_chosen(tmp_path: Path) -> None:
    counts = {"ab": 90, "ac": 30, "ad": 40, "bc": 19, "bd": 50, "cd": 20, "ae": 60, "be": 35}
    pairs = [(pair[0], pair[1]) for pair in counts]
    records = [
        Record(
            key=pair,
            attributes={},
            arrays={"matches0": np.where(np.arange(100) < count, 0, -1).astype(np.int16)},
        )
        for pair, count in zip(pairs, counts.values(), strict=True)
    ]
    write_store(tmp_path / "matches.h5", {}, records)
    images = tuple(image_summary(n, None if n in "de" else 0.5) for n in "abcde")
    summary = ModelSummary(folder=tmp_path, images=images)
    source = SessionSource(model="fast", options=SessionOptions())
    chosen = pairs_to_search(source, summary, tmp_path / "matches.h5", [*pairs, ("c", "e")])
    # d: bd, ad; e: ae, be
    assert {first + second for first, second in chosen} == {"ae", "ad", "bd", "be"}
    whole = ModelSummary(folder=tmp_path, images=images[:3])
    assert pairs_to_search(source, whole, tmp_path / "matches.h5", pairs) == []
    many = ModelSummary(folder=tmp_path, images=images * 101)
    assert pairs_to_search(source, many, tmp_path / "matches.h5", pairs) == []
    off = SessionSource(model="fast", options=SessionOptions(search="off"))
    assert pairs_to_search(off, summary, tmp_path / "matches.h5", pairs) == []


KILLED = """
import os, signal, sys
import featherglue as fg

def kill(progress):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

left = int(sys.argv[3])
fg.reconstruct(sys.argv[1], sys.argv[2], num_keypoints=int(sys.argv[4]), workers=1, progress=kill)
"""


def test_a_killed_run_resumes_with_the_same_result(
    scene: Scene, result: Reconstruction, work: Path, tmp_path: Path
) -> None:
    for units in (4, 9, 9):  # among the photographs, the pairs, and their alignments
        arguments = [str(scene.folder), str(tmp_path), str(units), str(NUM_KEYPOINTS)]
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, *arguments], check=False, timeout=300
        )
        assert killed.returncode == -signal.SIGKILL
    again = reconstruct(scene.folder, tmp_path, num_keypoints=NUM_KEYPOINTS, workers=1)
    for name in ("features.h5", "matches.h5"):
        assert (tmp_path / name).read_bytes() == (work / name).read_bytes()
    with Store(tmp_path / "adjusted_features.h5") as a, Store(work / "adjusted_features.h5") as b:
        for key in b.sorted_keys():
            first, second = a.read(key).arrays, b.read(key).arrays
            assert all((first[name] == second[name]).all() for name in second)
    assert again.model is not None and result.model is not None
    assert again.model.images == result.model.images
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


KILLED_AT = """
import os, signal, sys
import featherglue as fg
from featherglue.collection import colmap_export

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def progress(state):
    if place == "mapping" and state.step == "mapping" and state.completed == 4:
        kill()

place = sys.argv[3]
if place == "verification":
    colmap_export.verify_matches = kill
fg.reconstruct(
    sys.argv[1], sys.argv[2], num_keypoints=int(sys.argv[4]), workers=1, progress=progress
)
"""


def content(database: Path) -> list[str]:
    """All tables of a database as statements of SQL."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("place", ["verification", "mapping"])
def test_a_run_that_is_killed_in_colmap_resumes_with_the_same_result(
    place: str, scene: Scene, result: Reconstruction, work: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "work"
    results = ("database.db", "sparse", "points.ply", "index.html", "manifest.json")
    shutil.copytree(work, copy, ignore=shutil.ignore_patterns(*results))
    before = {path.name: path.stat().st_mtime_ns for path in copy.glob("*.h5")}
    arguments = [str(scene.folder), str(copy), place, str(NUM_KEYPOINTS)]
    killed = subprocess.run([sys.executable, "-c", KILLED_AT, *arguments], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert (copy / "database.db").exists() == (place == "mapping")
    again = reconstruct(scene.folder, copy, num_keypoints=NUM_KEYPOINTS, workers=1)
    assert {path.name: path.stat().st_mtime_ns for path in copy.glob("*.h5")} == before
    assert content(copy / "database.db") == content(work / "database.db")
    assert again.model is not None and result.model is not None
    assert again.model.images == result.model.images
    assert {path.name for path in copy.iterdir()} == {path.name for path in work.iterdir()}


def test_pairs_by_retrieval(
    scene: Scene, result: Reconstruction, work: Path, tmp_path: Path
) -> None:
    shutil.copy(work / "features.h5", tmp_path)
    settings = {"num_keypoints": NUM_KEYPOINTS, "workers": 1, "adjust": False, "map": False}
    few = reconstruct(scene.folder, tmp_path, pairs="retrieval", num_neighbors=2, **settings)
    assert 6 <= few.num_pairs <= 12
    assert few.database.num_verified_pairs >= 5
    listed = (tmp_path / "pairs.txt").read_text(encoding="utf-8")
    arguments = ["--pairs", "retrieval", "--num-neighbors", "2", "-o", str(tmp_path / "again.txt")]
    features = ["--feature-file", str(tmp_path / "features.h5")]
    assert cli.main(["pairs", str(scene.folder), *features, *arguments]) == 0
    assert (tmp_path / "again.txt").read_text(encoding="utf-8") == listed
    arguments = ["pairs", str(scene.folder), *features, "--model", "balanced", *arguments]
    assert cli.main(arguments) == 1  # the features are of another model


@pytest.mark.parametrize("method", ["exhaustive", "retrieval"])
def test_photographs_without_features_have_no_pairs(
    method: str,
    scene: Scene,
    result: Reconstruction,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos, features = tmp_path / "photos", tmp_path / "features.h5"
    shutil.copytree(scene.folder, photos)
    shutil.copy(work / "features.h5", features)
    (photos / "broken.png").write_bytes(b"no image")
    arguments = ["pairs", str(photos), "--feature-file", str(features), "--pairs", method]
    assert cli.main([*arguments, "-o", str(tmp_path / "pairs.txt")]) == 0
    assert "skipped broken.png: no features\n15 pairs of 6 photos" in capsys.readouterr().out
    assert "broken" not in (tmp_path / "pairs.txt").read_text(encoding="utf-8")


def test_an_image_that_is_gone_leaves_the_adjustment(
    scene: Scene, result: Reconstruction, work: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(scene.folder, photos)
    (photos / "2.png").unlink()
    inputs, outputs = (work / "features.h5", work / "matches.h5"), (tmp_path / "f", tmp_path / "m")
    adjusted = adjust_collection(photos, *inputs, *outputs, workers=1)
    assert len(adjusted.notes) == 5
    assert all("2.png: left out: " in note or "2.png and " in note for note in adjusted.notes)
    with Store(outputs[1]) as store:
        pairs = store.sorted_keys()
    assert len(pairs) >= 6
    assert not any("2.png" in pair for pair in pairs)


def test_calibrated_cameras_are_kept(
    scene: Scene, result: Reconstruction, work: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "work"
    shutil.copytree(work, copy)
    params = f"{FOCAL},{SIZE[0] / 2},{SIZE[1] / 2},0"
    command = ["reconstruct", str(scene.folder), "-o", str(copy), "--workers", "1"]
    command += ["--num-keypoints", str(NUM_KEYPOINTS)]
    command += ["--camera-params", params, "--camera-mode", "single"]
    assert cli.main([*command, "--no-refine-cameras"]) == 0
    [camera] = pycolmap.Reconstruction(copy / "sparse" / "0").cameras.values()
    assert camera.params.tolist() == [FOCAL, SIZE[0] / 2, SIZE[1] / 2, 0]
    assert cli.main(command) == 0
    [camera] = pycolmap.Reconstruction(copy / "sparse" / "0").cameras.values()
    assert camera.params[0] != FOCAL


def test_unknown_cameras_cannot_be_kept(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "work"
    assert cli.main(["reconstruct", str(scene.folder), "-o", str(out), "--no-refine-cameras"]) == 2
    assert capsys.readouterr().err == "error: --no-refine-cameras needs --camera-params\n"
    assert not out.exists()


def test_cameras_of_several_sizes_cannot_be_kept(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(scene.folder, photos)
    smaller = cv2.resize(cv2.imread(str(photos / "0.png")), (SIZE[0] // 2, SIZE[1] // 2))
    cv2.imwrite(str(photos / "smaller.png"), smaller)
    command = ["reconstruct", str(photos), "-o", str(tmp_path / "work"), "--workers", "1"]
    command += ["--num-keypoints", "100", "--camera-params", "400,200,150,0"]
    assert cli.main([*command, "--no-refine-cameras"]) == 2
    assert "have several sizes" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["adjust", "export-colmap"])
def test_a_missing_folder_of_photographs_is_named(
    command: str,
    result: Reconstruction,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = ["--feature-file", str(work / "features.h5"), "--match-file", str(work / "matches.h5")]
    missing = tmp_path / "missing"
    assert cli.main([command, str(missing), *files, "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"error: {missing}: no such folder\n"


def test_other_settings_are_refused(scene: Scene, result: Reconstruction, work: Path) -> None:
    with pytest.raises(StoreError, match=r"\(num_keypoints 400, now 300\).*`overwrite`"):
        reconstruct(scene.folder, work, num_keypoints=300, workers=1)
    with pytest.raises(StoreError, match=r"features\.h5: .*\(another model\)"):
        reconstruct(scene.folder, work, model="balanced", num_keypoints=400, workers=1)
    with pytest.raises(StoreError, match=r"matches\.h5: .*cascade True, now False"):
        reconstruct(scene.folder, work, cascade=False, num_keypoints=NUM_KEYPOINTS, workers=1)


def test_duplicates_of_a_photograph_overlap_and_give_no_model(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(scene.folder / "0.png", photos / name)
    arguments = [str(photos), "-o", str(tmp_path / "work"), "--num-keypoints", "200"]
    assert cli.main(["reconstruct", *arguments, "--workers", "1"]) == 1
    assert "none: no pair could start a model" in capsys.readouterr().out


def test_a_database_of_another_program_is_not_replaced(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "database.db").write_bytes(b"of another program")
    settings = {"num_keypoints": 50, "workers": 1, "adjust": False, "map": False}
    with pytest.raises(OutputError, match=r"database.db: exists.*`overwrite`"):
        reconstruct(scene.folder, tmp_path, **settings)
    assert (tmp_path / "database.db").read_bytes() == b"of another program"
    result = reconstruct(scene.folder, tmp_path, overwrite=True, **settings)
    assert result.database.num_images == 6
    assert result.model is None


def test_a_damaged_database_is_made_again(
    scene: Scene, result: Reconstruction, work: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(work, tmp_path / "work"))
    database = copy / "database.db"
    database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
    with pytest.warns(StoredFileWarning, match=r"database\.db: damaged .*it is made again"):
        again = reconstruct(scene.folder, copy, num_keypoints=NUM_KEYPOINTS, workers=1)
    assert again.database.num_matches == result.database.num_matches


@pytest.mark.parametrize("name", ["images.bin", "points3D.bin"])
def test_a_damaged_model_is_an_error(
    scene: Scene, result: Reconstruction, work: Path, tmp_path: Path, name: str
) -> None:
    copy = Path(shutil.copytree(work, tmp_path / "work"))
    path = copy / "sparse" / "0" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StoreError, match=r"sparse: was changed or damaged.*`overwrite`"):
        reconstruct(scene.folder, copy, num_keypoints=NUM_KEYPOINTS, workers=1)
    shutil.rmtree(copy / "sparse")
    again = reconstruct(scene.folder, copy, num_keypoints=NUM_KEYPOINTS, workers=1)
    assert again.model is not None and result.model is not None
    assert again.model.num_points == result.model.num_points


def test_a_model_of_another_program_is_not_removed(
    scene: Scene, result: Reconstruction, work: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(work, tmp_path / "work"))
    shutil.rmtree(copy / "sparse")
    (copy / "sparse").mkdir()
    (copy / "sparse" / "own.txt").write_text("own")
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["model"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(OutputError, match="sparse: exists, and no run of this work folder"):
        reconstruct(scene.folder, copy, num_keypoints=NUM_KEYPOINTS, workers=1)
    assert (copy / "sparse" / "own.txt").read_text() == "own"


def test_an_adjustment_replaces_only_adjustments(
    scene: Scene, result: Reconstruction, work: Path, tmp_path: Path
) -> None:
    inputs = scene.folder, work / "features.h5", work / "matches.h5"
    outputs = tmp_path / "features.h5", tmp_path / "matches.h5"
    for content in (b"own", (work / "features.h5").read_bytes()):
        outputs[0].write_bytes(content)
        with pytest.raises(StoreError, match=r"features\.h5: .*, or `overwrite`"):
            adjust_collection(*inputs, *outputs, workers=1)
        assert outputs[0].read_bytes() == content
    adjust_collection(*inputs, *outputs, workers=1, overwrite=True)
    before = outputs[1].read_bytes()
    outputs[0].unlink()  # half of the result: both files are made again
    adjust_collection(*inputs, *outputs, workers=1)
    assert outputs[1].read_bytes() == before


def test_images_that_colmap_cannot_read_are_left_out(
    result: Reconstruction, scene: Scene, work: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(scene.folder, photos)
    (photos / "2.png").write_bytes(b"damaged since the extraction")
    exported = export_colmap(
        photos, work / "adjusted_features.h5", work / "adjusted_matches.h5", tmp_path / "a.db"
    )
    assert exported.unreadable == ("2.png",)
    assert exported.num_images == 5
    assert 0 < exported.num_pairs <= 10
    assert {path.name for path in tmp_path.iterdir()} == {"a.db", "photos"}


def test_photographs_without_overlap_give_no_model(
    tmp_path: Path, photographs: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, image in photographs.items():
        cv2.imwrite(str(photos / f"{name}.jpg"), cv2.resize(image, (320, 240)))
    (photos / "broken.jpg").write_bytes(b"no image")
    arguments = [str(photos), "-o", str(tmp_path / "work"), "--num-keypoints", "200"]
    out = tmp_path / "out.json"
    assert cli.main(["reconstruct", *arguments, "--workers", "1", "--json", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "skipped broken.jpg" in printed
    assert "the photographs do not overlap" in printed
    values = json.loads(out.read_text())
    assert values["num_photos"] == 4
    assert values["model"]["num_registered"] == 0
    assert all("overlaps with no other" in image["reason"] for image in values["model"]["images"])


def test_masks_of_the_scene(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((300, 400), np.uint8)
    mask[:, 200:] = 255
    cv2.imwrite(str(masks / "0.png.png"), mask)
    cv2.imwrite(str(masks / "1.png.png"), mask[1:])
    output = tmp_path / "features.h5"
    arguments = [str(scene.folder), "-o", str(output), "--masks", str(masks), "--workers", "1"]
    assert cli.main(["extract", *arguments, "--num-keypoints", "50"]) == 1
    with h5py.File(output) as features:
        assert features["0.png"]["keypoints"][:, 0].min() >= 199.5
        assert len(features["0.png"]["keypoints"]) == 50
        assert features["2.png"]["keypoints"][:, 0].min() < 150
        assert "1.png" not in features
    assert cli.main(["extract", *arguments[:4], str(tmp_path), "--num-keypoints", "50"]) == 2
    assert f"error: --masks: {tmp_path} has no mask of any image" in capsys.readouterr().err


def test_masks_of_stored_features(
    scene: Scene,
    result: Reconstruction,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair_file, masks = tmp_path / "pairs.txt", tmp_path / "masks"
    pair_file.write_text("0.png 1.png\n")
    masks.mkdir()
    files = ["--feature-file", str(work / "features.h5"), "--input-pairs", str(pair_file)]
    output = ["-o", str(tmp_path / "matches.h5"), "--workers", "1"]
    command = ["match", "--input-dir", str(scene.folder), *files, *output, "--masks", str(masks)]
    assert cli.main(command) == 2
    assert "--masks has no effect on a feature file without --search" in capsys.readouterr().err
    assert cli.main([*command, "--search", "auto"]) == 2
    assert f"error: --masks: {masks} has no mask of any image" in capsys.readouterr().err
    cv2.imwrite(str(masks / "0.png.png"), np.full((300, 400), 255, np.uint8))
    assert cli.main([*command, "--search", "auto"]) == 0
    cv2.imwrite(str(masks / "0.png.png"), np.full((299, 400), 255, np.uint8))
    assert cli.main([*command, "--search", "auto"]) == 1  # another mask: matched again
    assert "the mask has 400×299 pixels" in capsys.readouterr().out.replace("\n", " ")


def test_a_folder_with_one_readable_photograph(tmp_path: Path, gray: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), gray)
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"1 of 2 photographs can be read.*b.png"):
        reconstruct(tmp_path, tmp_path / "work", workers=1)
