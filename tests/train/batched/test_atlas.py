"""Photographs as tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from batched_cases import draws, whole

from featherglue.data.keypoint_labels import KeypointLabels, PhotoLabels
from featherglue.data.labeled_photographs import LabeledPhotoFolder
from featherglue.data.photographs import PhotoFolder
from featherglue.train.batched.atlas import Atlas


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("index", range(4))
def test_pixels_are_those_of_the_photograph(
    photos: PhotoFolder, atlas: Atlas, index: int, mirrored: bool
) -> None:
    image = photos[index][:, ::-1] if mirrored else photos[index]
    height, width = image.shape
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    photo = torch.full_like(u, index)
    found = atlas.sample(
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
    assert np.abs(atlas.sample(texture, *at, torch.zeros_like(photo)).numpy() - exact).max() < 4
    half = cv2.resize(image[:130, :200], (100, 65), interpolation=cv2.INTER_AREA)
    below = cv2.remap(half, (u[None] + 0.5) / 2 - 0.5, (v[None] + 0.5) / 2 - 0.5, cv2.INTER_LINEAR)
    found = atlas.sample(texture, *at, torch.ones_like(photo)).numpy()
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
    folder = LabeledPhotoFolder(tmp_path, labels, min_rank=0.2, by=("score",), certain_rank=0.6)
    atlas = Atlas(folder, "cpu")
    _, counts = atlas.keypoints(atlas.draw(draws(), 300))
    number = counts.sum(1)
    assert number.min() >= (scores >= 0.6).sum() and number.max() <= (scores >= 0.2).sum()
    assert len(number.unique()) > 10
