"""Other tools read the files of a reconstruction, in the ways of docs/how-to/sfm-tools.md.

The readers are our own, and read what the tools read.
"""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pycolmap
import pytest
import torch
from board_scene import render

from featherglue.collection.colmap import quiet
from featherglue.collection.reconstruction import reconstruct

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "sfm-tools.md"
NUM_PHOTOS = 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "left").mkdir()
    pictures = [
        cv2.resize(photographs[name], (side, side), interpolation=cv2.INTER_AREA)
        for name, side in (("coffee", 800), ("camera", 240), ("astronaut", 240))
    ]
    for i, angle in enumerate(np.linspace(-0.3, 0.3, NUM_PHOTOS)):
        path = folder / (f"{i}.png" if i else "left/0.png")
        cv2.imwrite(str(path), render(pictures, angle))
    cv2.imwrite(str(folder / "noise.png"), np.random.default_rng(0).integers(0, 255, (300, 400)))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    folder = tmp_path_factory.mktemp("work")
    result = reconstruct(
        photos, folder, num_keypoints=400, workers=1, pairs="retrieval", num_neighbors=5
    )
    assert result.model is not None and result.model.num_registered == NUM_PHOTOS
    return folder


def listed(path: Path) -> list[tuple[str, str]]:
    """A list of pairs as hloc reads it: two words a line."""
    pairs = []
    for line in path.read_text().rstrip("\n").split("\n"):
        name0, name1 = line.split()
        pairs.append((name0, name1))
    return pairs


def hloc_matches(file: Any, name0: str, name1: str) -> np.ndarray:
    """Matches (M, 2) as hloc reads them: the group may have either order."""
    group = "/".join(name.replace("/", "-") for name in (name0, name1))
    reverse = group not in file
    if reverse:
        group = "/".join(name.replace("/", "-") for name in (name1, name0))
    partner, scores = file[group]["matches0"][()], file[group]["matching_scores0"][()]
    assert partner.shape == scores.shape
    rows = np.flatnonzero(partner != -1)
    matches = np.stack([rows, partner[rows]], -1)
    return matches[:, ::-1] if reverse else matches


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "adjusted_"])
def test_hloc_triangulates_with_known_poses(
    work: Path, photos: Path, tmp_path: Path, prefix: str
) -> None:
    reference = pycolmap.Reconstruction(work / "sparse" / "0")
    database = tmp_path / "database.db"
    with pycolmap.Database.open(database) as stored:
        for item in reference.cameras.values():
            stored.write_camera(item, use_camera_id=True)
        for rig in reference.rigs.values():
            stored.write_rig(rig, use_rig_id=True)
        for frame in reference.frames.values():
            stored.write_frame(frame, use_frame_id=True)
        ids = {}
        for image in reference.images.values():
            stored.write_image(image, use_image_id=True)
            ids[image.name] = image.image_id
        with h5py.File(work / f"{prefix}features.h5") as features:
            for name, number in ids.items():
                keypoints = features[name]["keypoints"].__array__()
                keypoints += 0.5  # in place, as hloc does
                stored.write_keypoints(number, keypoints)
        with h5py.File(work / f"{prefix}matches.h5") as matches:
            for name0, name1 in listed(work / f"{prefix}pairs.txt"):
                found = hloc_matches(matches, name0, name1)
                if {name0, name1} <= ids.keys():
                    stored.write_matches(ids[name0], ids[name1], found.astype(np.uint32))
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(f"{a} {b}" for a, b in listed(work / f"{prefix}pairs.txt")))
    with quiet():
        pycolmap.verify_matches(database, pairs)
        model = pycolmap.triangulate_points(reference, database, photos, tmp_path / "model")
    assert model.num_points3D() > 50
    assert model.compute_mean_reprojection_error() < (0.6 if prefix else 2)


@pytest.mark.slow
def test_hloc_matchers_read_the_features(work: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    with h5py.File(work / "features.h5") as file:
        for suffix, name in (("0", "left/0.png"), ("1", "1.png")):
            group = file[name]
            for key, values in group.items():
                tensors[key + suffix] = torch.from_numpy(values.__array__()).float()
            tensors[f"image{suffix}"] = torch.empty((1, *tuple(group["image_size"])[::-1]))
    assert tensors["image0"].shape == (1, 300, 400)
    assert tensors["keypoints0"].shape[1] == 2
    assert tensors["scores0"].shape == tensors["keypoints0"].shape[:1]
    similarity = tensors["descriptors0"].T @ tensors["descriptors1"]
    first, second = similarity.argmax(1), similarity.argmax(0)
    mutual = int((second[first] == torch.arange(len(first))).sum())
    assert mutual > 50


@pytest.mark.slow
def test_hloc_retrieval_reads_the_global_descriptors(work: Path) -> None:
    names: list[str] = []
    with h5py.File(work / "global_descriptors.h5") as file:
        file.visititems(
            lambda _, item: (
                names.append(item.parent.name.strip("/"))
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        names = sorted(set(names))
        vectors = np.stack([file[name]["global_descriptor"].__array__() for name in names])
    assert names == ["1.png", "2.png", "3.png", "4.png", "left/0.png", "noise.png"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    similarity = vectors @ vectors.T
    noise = names.index("noise.png")
    assert similarity.sum(1).argmin() == noise


@pytest.mark.slow
def test_colmap_opens_the_database(work: Path, photos: Path, tmp_path: Path) -> None:
    """The columns that COLMAP's programs read, and its mapper with the database alone."""
    connection = sqlite3.connect(work / "database.db")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        assert version >= 40_000_00
        rows = connection.execute("SELECT rows, cols, LENGTH(data) FROM keypoints").fetchall()
        assert all(size == 4 * count * columns for count, columns, size in rows)
        verified = connection.execute("SELECT rows, config FROM two_view_geometries").fetchall()
        assert sum(count >= 15 and config > 1 for count, config in verified) >= NUM_PHOTOS - 1
    finally:
        connection.close()
    with quiet():
        models = pycolmap.incremental_mapping(work / "database.db", photos, tmp_path / "models")
    assert max(model.num_reg_images() for model in models.values()) == NUM_PHOTOS


@pytest.mark.slow
def test_gaussian_splatting_reads_the_undistorted_model(
    work: Path, photos: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "scene"
    with quiet():
        pycolmap.undistort_images(scene, work / "sparse" / "0", photos)
    sparse = scene / "sparse" / "0"
    sparse.mkdir()
    for path in scene.glob("sparse/*.bin"):
        path.rename(sparse / path.name)
    poses = read_images(sparse / "images.bin")
    assert len(poses) == NUM_PHOTOS
    model = pycolmap.Reconstruction(sparse)
    for image in model.images.values():
        assert (scene / "images" / image.name).is_file()
        quaternion, translation = poses[image.name]
        pose = image.cam_from_world()
        np.testing.assert_allclose(quaternion, np.roll(pose.rotation.quat, 1))
        np.testing.assert_allclose(translation, pose.translation)
    models = {camera.model.name for camera in model.cameras.values()}
    assert models <= {"PINHOLE", "SIMPLE_PINHOLE"}
    assert len(read_images(work / "sparse" / "0" / "images.bin")) == NUM_PHOTOS


def read_images(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Quaternion (w, x, y, z) and translation by name: the layout of images.bin of all versions."""
    data, position, found = path.read_bytes(), 8, {}
    for _ in range(struct.unpack_from("<Q", data)[0]):
        values = struct.unpack_from("<I7dI", data, position)
        position += struct.calcsize("<I7dI")
        end = data.index(b"\0", position)
        name = data[position:end].decode()
        (num_points,) = struct.unpack_from("<Q", data, end + 1)
        position = end + 9 + 24 * num_points
        found[name] = np.array(values[1:5]), np.array(values[5:8])
    assert position == len(data)
    return found


class BaseMatcher(torch.nn.Module):
    """The interface of vismatch: `_forward` of a derived class; tensors or paths, and a dict."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device

    def forward(self, img0: torch.Tensor, img1: torch.Tensor) -> dict[str, Any]:
        answer = self._forward(img0.to(self.device), img1.to(self.device))  # type: ignore[operator]
        points0, points1, keypoints0, keypoints1, descriptors0, descriptors1 = answer
        H, mask = cv2.findHomography(points0, points1, cv2.USAC_MAGSAC, 3.0)
        return {
            "H": H,
            "num_inliers": int(mask.sum()),
            "all_kpts0": keypoints0,
            "all_kpts1": keypoints1,
            "all_desc0": descriptors0,
            "all_desc1": descriptors1,
        }


@pytest.mark.slow
def test_the_classes_of_the_page(gray: np.ndarray) -> None:
    blocks = PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.partition("```")[0], names)
    H = np.array([[0.98, -0.05, 8.0], [0.04, 0.97, 5.0], [1e-5, 0, 1]])
    height, width = gray.shape
    warped = cv2.warpPerspective(gray, H, (width, height))
    first, second = (torch.from_numpy(image / np.float32(255))[None] for image in (gray, warped))
    matcher = type("Matcher", (names["FeatherGlue"], BaseMatcher), {})(device="cpu")
    result = matcher(first.expand(3, -1, -1), second.expand(3, -1, -1))
    assert result["num_inliers"] > 50
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float64)
    found, true = (cv2.perspectiveTransform(corners, each) for each in (result["H"], H))
    np.testing.assert_allclose(found, true, atol=1.5)
    assert len(result["all_desc0"]) == len(result["all_kpts0"])
    module = names["FeatherGlueModule"]()
    found = module({"image0": torch.stack([first, first]), "image1": torch.stack([second, first])})
    of_second = found["batch_indexes"] == 1
    assert int(of_second.sum()) > 50
    identical = found["keypoints0"][of_second] - found["keypoints1"][of_second]
    assert float(identical.abs().max()) < 1
    points = cv2.perspectiveTransform(found["keypoints0"][~of_second].numpy()[None], H)[0]
    errors = np.linalg.norm(points - found["keypoints1"][~of_second].numpy(), axis=1)
    assert np.median(errors) < 0.5
    assert len(found["confidence"]) == len(of_second)
