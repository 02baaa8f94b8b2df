"""Batches of pairs of views against single pairs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from batched_cases import SIZE, assert_depends_only_on_seed_and_index

from featherglue.data import detector_labels
from featherglue.data.detector_labels import NO_KEYPOINT
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import SceneConfig
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs
from featherglue.train.batched.atlas import Atlas
from featherglue.train.batched.planes import project
from featherglue.train.batched.view_batches import BatchedViews, cell_labels


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
    # Both views have similar gray values at corresponding points, but not at other points.
    gray = [
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
    apart = (gray[0] - gray[1]).abs()[real].median()
    other = (gray[0] - gray[1].roll(1, 1)).abs()[real].median()
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
    assert batch["count"].sum() > 0
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
        assert np.array_equal(found[i].numpy(), detector_labels.cell_labels(points[i], SIZE))


def test_views_depend_only_on_seed_and_index(atlas: Atlas) -> None:
    assert_depends_only_on_seed_and_index(views(atlas, strength=1.0))
