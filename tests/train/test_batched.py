"""Batched training data against single samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from featherglue.data import photometric
from featherglue.data.detector_labels import NO_KEYPOINT
from featherglue.data.detector_labels import cell_labels as one_by_one
from featherglue.data.homography import HomographyRange
from featherglue.data.keypoint_labels import KeypointLabels, PhotoLabels
from featherglue.data.labelled_photographs import LabelledPhotoFolder
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scene_view_pairs import is_resolved
from featherglue.data.scenes import NO_PLANE, SceneConfig, Scenes
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs
from featherglue.train.batched.atlas import Atlas, Textures
from featherglue.train.batched.augmentation import CHANGES, augment_images
from featherglue.train.batched.draws import Draws
from featherglue.train.batched.geometry import homographies, inverse, rotation
from featherglue.train.batched.planes import Planes, project, readable, render
from featherglue.train.batched.samples import BatchedScenes, BatchedViews, cell_labels
from featherglue.train.losses.true_assignment import true_assignment
from featherglue.train.stages import training_data as photographs
from featherglue.train.stages.training_data import photographs_on_device

SIZE = (96, 64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoFolder:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for i, (width, height) in enumerate([(150, 111), (96, 140), (128, 97), (201, 130)]):
        image = rng.integers(0, 256, (height // 6, width // 6), np.uint8)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return PhotoFolder(folder)


@pytest.fixture(scope="module")
def atlas(photos: PhotoFolder) -> Atlas:
    return Atlas(photos, "cpu")


def draws(index: int = 0) -> Draws:
    return Draws(5, index, torch.device("cpu"))


def whole(atlas: Atlas, photo: Tensor, mirrored: Tensor) -> Textures:
    width, height = atlas.sizes[photo].unbind(-1)
    zero = torch.zeros_like(width)
    return Textures(photo, mirrored, zero, zero, width, height, zero)


# --- the atlas ------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("index", range(4))
def test_pixels_are_those_of_the_photograph(
    photos: PhotoFolder, atlas: Atlas, index: int, mirrored: bool
) -> None:
    image = photos[index][:, ::-1] if mirrored else photos[index]
    height, width = image.shape
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    photo = torch.full_like(u, index)
    found = atlas.look(
        whole(atlas, photo, torch.full_like(u, mirrored, dtype=torch.bool)),
        u.float(),
        v.float(),
        torch.zeros_like(u),
    )
    assert np.array_equal(found.numpy(), image)


def test_sampling_between_pixels_and_levels(photos: PhotoFolder, atlas: Atlas) -> None:
    image = photos[3].astype(np.float32)
    rng = np.random.default_rng(0)
    u, v = rng.uniform(8, 180, 200).astype(np.float32), rng.uniform(8, 110, 200).astype(np.float32)
    photo = torch.full((200,), 3)
    texture = whole(atlas, photo, torch.zeros(200, dtype=torch.bool))
    at = torch.from_numpy(u), torch.from_numpy(v)
    exact = cv2.remap(image, u[None], v[None], cv2.INTER_LINEAR)[0]
    assert np.abs(atlas.look(texture, *at, torch.zeros_like(photo)).numpy() - exact).max() < 4
    half = cv2.resize(image[:130, :200], (100, 65), interpolation=cv2.INTER_AREA)
    below = cv2.remap(half, (u[None] + 0.5) / 2 - 0.5, (v[None] + 0.5) / 2 - 0.5, cv2.INTER_LINEAR)
    found = atlas.look(texture, *at, torch.ones_like(photo)).numpy()
    assert np.abs(found - below[0]).max() < 6


def test_keypoints_are_mirrored_and_cut_with_the_photograph(
    photos: PhotoFolder, atlas: Atlas
) -> None:
    corners = photos.ranked_keypoints(0, photos[0])[0]
    texture = whole(atlas, torch.tensor([0]), torch.tensor([True]))
    points, counts = atlas.keypoints(texture)
    expected = np.stack((149 - corners[:, 0], corners[:, 1]), 1)
    assert np.allclose(points[counts].numpy(), expected)
    texture = replace(texture, left=torch.tensor([40.0]), width=torch.tensor([30.0]))
    points, counts = atlas.keypoints(texture)
    inside = (expected[:, 0] >= 40) & (expected[:, 0] <= 69)
    assert 0 < inside.sum() < len(expected)
    assert np.allclose(points[counts].numpy(), expected[inside] - (40, 0))


def test_labels_below_the_minimum_rank_are_ignored(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 100), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    points = np.random.default_rng(1).uniform(5, 75, (50, 2)).astype(np.float32)
    scores = np.linspace(0.9, 0.0, 50).astype(np.float32)
    zero = np.zeros(50, np.uint16)
    labels = KeypointLabels(
        {"a.png": PhotoLabels((100, 80), points, scores, zero, zero, zero)}, "", {}
    )
    folder = LabelledPhotoFolder(tmp_path, labels, min_rank=0.2, by=("score",), certain_rank=0.6)
    atlas = Atlas(folder, "cpu")
    _, counts = atlas.keypoints(atlas.draw(draws(), 300))
    number = counts.sum(1)
    assert number.min() >= (scores >= 0.6).sum() and number.max() <= (scores >= 0.2).sum()
    assert len(number.unique()) > 10


# --- geometry -------------------------------------------------------------------------------


def test_inverse_and_rotation_equal_opencv() -> None:
    matrices = torch.randn(20, 3, 3)
    assert torch.allclose(inverse(matrices) @ matrices, torch.eye(3).expand(20, 3, 3), atol=1e-3)
    vectors = torch.randn(20, 3)
    for vector, found in zip(vectors, rotation(vectors), strict=True):
        assert np.allclose(cv2.Rodrigues(vector.double().numpy())[0], found.numpy(), atol=1e-5)


def test_homographies_stay_in_their_range() -> None:
    still = HomographyRange(rotation=0, scale=1, anisotropy=1, perspective=0, translation=0)
    H = homographies(draws(), SIZE, still, 7)
    assert torch.allclose(H / H[:, 2:, 2:], torch.eye(3).expand(7, 3, 3), atol=1e-5)
    scaled = HomographyRange(rotation=30, scale=2, anisotropy=1, perspective=0, translation=0.1)
    H = homographies(draws(), SIZE, scaled, 500)
    scale = torch.linalg.det(H[:, :2, :2]).sqrt()
    angle = torch.atan2(H[:, 1, 0], H[:, 0, 0]).rad2deg()
    assert 0.5 <= scale.min() < 0.55 and 1.9 < scale.max() <= 2.0001
    assert 28 < angle.abs().max() <= 30.001
    centre = torch.tensor([(SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2])
    moved = (project(centre.expand(500, 1, 2), H)[:, 0] - centre).abs() / torch.tensor(SIZE)
    assert 0.09 < moved.max() <= 0.1001


def test_readable_points_equal_single_points() -> None:
    rng = np.random.default_rng(4)
    points = rng.uniform(0, 100, (300, 2)).astype(np.float32)
    H = np.array([[0.4, 0.1, 3], [-0.2, 0.9, 5], [0.002, 0.004, 1.0]])
    found = readable(torch.from_numpy(points), torch.from_numpy(H).float())
    expected = is_resolved(points, H)
    assert 0 < expected.sum() < 300
    assert (found.numpy() == expected).mean() > 0.99


def test_batched_scenes_resemble_single_scenes(photos: PhotoFolder, atlas: Atlas) -> None:
    config = SceneConfig(size=SIZE, max_planes=3, photometric_strength=0)
    for seed in range(6):
        scene = Scenes(photos, config).draw_scene(np.random.default_rng(seed))
        photo = torch.tensor([[crop.index for crop in scene.crops]])
        mirrored = torch.tensor([[crop.mirrored for crop in scene.crops]])
        to_views = torch.from_numpy(np.array(scene.to_views)).float()[:, None]
        planes = Planes(whole(atlas, photo, mirrored), torch.ones_like(mirrored), to_views)
        seen = render(atlas, planes, SIZE)
        for view in range(2):
            ids, image = seen.planes[view, 0].numpy(), seen.images[view, 0].numpy()
            same = ids == scene.planes[view]
            assert same.mean() > 0.96  # planes end a pixel earlier there
            shown = same & (ids != NO_PLANE)
            difference = np.abs(image - scene.images[view].astype(np.float32))[shown]
            assert np.median(difference) < 2


# --- batches --------------------------------------------------------------------------------


def views(atlas: Atlas, spatial: float = 0.5, strength: float = 0.0) -> BatchedViews:
    scenes = SceneConfig(size=SIZE, max_planes=3, detail=(0.5, 1.3))
    return BatchedViews(
        atlas,
        ViewPairConfig(size=SIZE, photometric_strength=strength, max_points=40),
        scenes,
        spatial,
        1,
    )


@pytest.mark.parametrize("spatial", [0.0, 1.0])
def test_points_of_views_correspond(atlas: Atlas, spatial: float) -> None:
    batch = views(atlas, spatial).batch(0, 24)
    count = batch["count"]
    assert count.max() > 20 and count.max() <= 40
    assert ("H_0to1" in batch) == (spatial == 0)
    if spatial == 0:
        mapped = project(batch["points0"], batch["H_0to1"])
        for i, number in enumerate(count.tolist()):
            assert torch.allclose(mapped[i, :number], batch["points1"][i, :number], atol=0.02)
            assert not batch["points0"][i, number:].any()
    # Both views have similar grey values at corresponding points, but not at other points.
    grey = [
        torch.stack(
            [
                torch.from_numpy(
                    cv2.remap(
                        cv2.GaussianBlur(batch[f"image{n}"][i, 0].numpy(), (0, 0), 1.5),
                        batch[f"points{n}"][i].numpy()[None],
                        None,
                        cv2.INTER_LINEAR,
                    )[0]
                )
                for i in range(24)
            ]
        ).float()
        for n in "01"
    ]
    real = torch.arange(40) < count[:, None]
    apart = (grey[0] - grey[1]).abs()[real].median()
    other = (grey[0] - grey[1].roll(1, 1)).abs()[real].median()
    assert apart < 0.4 * other


def test_large_photographs_have_all_keypoints(tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 256, (150, 190), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.resize(small, (1900, 1500)))
    large = PhotoFolder(tmp_path)
    config = ViewPairConfig(size=SIZE, photometric_strength=0.0, max_points=200)
    one = [ViewPairs(large, config)[i] for i in range(24)]
    batch = BatchedViews(Atlas(large, "cpu"), config, SceneConfig(size=SIZE)).batch(0, 24)
    expected = np.mean([sample["count"] for sample in one])
    assert expected > 50
    assert batch["count"].float().mean().item() == pytest.approx(expected, rel=0.2)
    cells = np.mean([sample["labels0"] != NO_KEYPOINT for sample in one])
    found = (batch["labels0"] != NO_KEYPOINT).float().mean().item()
    assert found == pytest.approx(cells, rel=0.2)


def test_labels_are_where_points_are(atlas: Atlas) -> None:
    batch = views(atlas).batch(0, 16)
    for name in "01":
        labels, inside = batch[f"labels{name}"], batch[f"inside{name}"]
        assert labels.shape == inside.shape == (16, 8, 12)
        assert ((labels >= 0) & (labels <= NO_KEYPOINT)).all()
        at = batch[f"points{name}"].round().long()
        for i, number in enumerate(batch["count"].tolist()):
            for x, y in at[i, :number].tolist():
                assert labels[i, y // 8, x // 8] != NO_KEYPOINT


def test_cell_labels_equal_single_views() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-5, 100, (6, 120, 2))
    chosen = (
        (points >= 0).all(2) & (points[..., 0] <= SIZE[0] - 1) & (points[..., 1] <= SIZE[1] - 1)
    )
    found = cell_labels(
        torch.from_numpy(points), torch.from_numpy(chosen), torch.arange(120).expand(6, -1), 8, 12
    )
    for i in range(6):
        assert np.array_equal(found[i].numpy(), one_by_one(points[i], SIZE))


def test_scene_homographies_map_equal_content(atlas: Atlas) -> None:
    batch = BatchedScenes(
        atlas, SceneConfig(size=SIZE, max_planes=3, planar=0.5, photometric_strength=0)
    ).batch(0, 12)
    assert batch["maps"].shape == (12, 4, 3, 3) and batch["maps"].isfinite().all()
    y, x = torch.meshgrid(torch.arange(4, 64, 6), torch.arange(4, 96, 6), indexing="ij")
    grid = torch.stack((x, y), -1).reshape(1, -1, 2).float().expand(12, -1, -1)
    planes0, planes1 = batch["planes0"], batch["planes1"]
    chosen = planes0[:, y, x].flatten(1).long()
    maps = batch["maps"].gather(1, chosen.clamp_max(3)[..., None, None].expand(-1, -1, 3, 3))
    projected = project(grid[:, :, None], maps)[:, :, 0]
    valid = (chosen != NO_PLANE) & projected.isfinite().all(-1)
    projected = projected.nan_to_num(-100)
    truth = true_assignment(grid, projected, planes0, planes1, batch["maps"], valid, valid)
    pairs = truth.matches.nonzero()
    assert len(pairs) > 300
    # Both views have similar grey values where both show the same point.
    first = batch["image0"][:, 0][pairs[:, 0], y.flatten()[pairs[:, 1]], x.flatten()[pairs[:, 1]]]
    at = projected[pairs[:, 0], pairs[:, 2]].round().long()
    second = batch["image1"][:, 0][pairs[:, 0], at[:, 1], at[:, 0]]
    apart = (first.float() - second.float()).abs()
    assert apart.median() < 8 < (first.float() - second.float().roll(1)).abs().median()


def test_batch_depends_only_on_seed_and_index(atlas: Atlas) -> None:
    for source in (views(atlas, strength=1.0), BatchedScenes(atlas, SceneConfig(size=SIZE), 1)):
        first, again, other = source.batch(8, 4), source.batch(8, 4), source.batch(12, 4)
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert not torch.equal(first["image0"], other["image0"])


# --- photometric augmentation ---------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(CHANGES)), ids=[c.__name__ for c, _ in CHANGES])
def test_augmentation_is_distributed_as_for_single_images(number: int) -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.uniform(20, 230, (22, 32)).astype(np.float32), (96, 64))
    change, single = CHANGES[number][0], photometric.AUGMENTATIONS[number][0]
    assert change.__name__ == single.__name__
    count = 1000
    images = torch.from_numpy(image).expand(count, -1, -1)
    changed = change(draws(1), images, 1.0)
    assert changed.shape == images.shape and changed.isfinite().all()
    assert torch.equal(changed, change(draws(1), images, 1.0))
    ours = changed.clamp(0, 255).numpy() - image
    theirs = np.stack([np.clip(single(rng, image, 1.0), 0, 255) for _ in range(count)]) - image
    for measure in (np.mean, np.std, lambda x: np.abs(x).mean((1, 2)).std()):
        assert measure(ours) == pytest.approx(measure(theirs), rel=0.25, abs=3)


def test_augmentation_of_strength_0_is_the_identity() -> None:
    images = torch.randint(0, 256, (3, 64, 96)).float()
    assert torch.equal(augment_images(draws(), images, 0.0).float(), images)


def test_jpeg_of_high_quality_is_nearly_the_image() -> None:
    smooth = cv2.GaussianBlur(
        np.random.default_rng(0).uniform(0, 255, (64, 96)).astype(np.float32), (0, 0), 3
    )
    jpeg = next(c for c, _ in CHANGES if c.__name__ == "jpeg")
    images = torch.from_numpy(smooth).expand(5, -1, -1)
    assert (jpeg(draws(), images, 0.0) - images).abs().mean() < 1.5


def test_augmentation_of_a_constant_image_is_finite() -> None:
    for value in (0.0, 255.0):
        flat = torch.full((16, 64, 96), value)
        for change, _ in CHANGES:
            assert change(draws(), flat, 1.4).isfinite().all(), change.__name__


# --- GPU memory -----------------------------------------------------------------------------


def test_photographs_are_stored_where_memory_suffices(
    photos: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert photographs_on_device(photos, "cpu") is None
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(photographs, "Atlas", _Recorded)
    wanted = Atlas.bytes_of(photos)
    assert wanted > len(photos) * photos.longest**2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * wanted + 1, 0))
    made = photographs_on_device(photos, "cuda")
    assert isinstance(made, _Recorded) and made.device == "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * wanted - 1, 0))
    with pytest.warns(UserWarning, match="worker processes make the training data"):
        assert photographs_on_device(photos, "cuda") is None


class _Recorded(Atlas):
    def __init__(self, photos: PhotoFolder, device: str) -> None:
        self.device = device
