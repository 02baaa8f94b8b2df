"""The NumPy decoding against its PyTorch twin and against known results."""

from __future__ import annotations

import dataclasses
from itertools import product

import cv2
import numpy as np
import pytest
import torch

from featherglue.matching import keypoints as decode
from featherglue.matching import nms
from featherglue.matching.scratch import Scratch
from featherglue.models import keypoints as torch_keypoints
from featherglue.options import ProcessingConfig

PUBLISHED = ProcessingConfig(
    max_keypoints=-1, subpixel=False, descriptor_sampling="published", keypoint_threshold=0.0
)


def random_scores(seed: int, height: int = 48, width: int = 64, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = rng.random((height, width), np.float32) ** 4
    return np.round(scores, 2).astype(np.float32) if ties else scores


def brute_force_suppress(scores: np.ndarray, radius: int) -> np.ndarray:
    """The published procedure, pixel by pixel."""
    height, width = scores.shape

    def windows(values: np.ndarray) -> np.ndarray:
        out = np.empty_like(values)
        for y, x in product(range(height), range(width)):
            out[y, x] = values[
                max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1
            ].max()
        return out

    maxima = scores == windows(scores)
    for _ in range(2):
        near = windows(maxima.astype(np.float32)) > 0
        rest = np.where(near, np.float32(0), scores)
        maxima |= (rest == windows(rest)) & ~near
    return maxima


def maxima(scores: np.ndarray, radius: int, threshold: float, most: int = -1) -> np.ndarray:
    config = dataclasses.replace(
        PUBLISHED,
        nms_radius=radius,
        keypoint_threshold=threshold,
        remove_borders=0,
        max_keypoints=most,
    )
    x, y = decode.find_keypoints(scores, scores.shape[::-1], config)
    kept = np.zeros(scores.shape, np.bool_)
    kept[y, x] = True
    return kept


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.005, 0.3, 0.99])
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 5, 6, 9])
def test_suppress_equals_the_pytorch_version(radius: int, threshold: float, ties: bool) -> None:
    for seed in range(6):
        scores = random_scores(seed, ties=ties)
        if seed % 2:  # hills, among which pixels in neighboring blocks are nearly the same
            scores = cv2.GaussianBlur(scores, (0, 0), 0.5 * seed)
        expected = torch_keypoints.non_maximum_suppression(torch.from_numpy(scores)[None], radius)[
            0
        ].numpy()
        np.testing.assert_array_equal(maxima(scores, radius, threshold), expected > threshold)


def test_scratch_buffers_of_other_maps_change_nothing() -> None:
    scratch = Scratch()
    rng = np.random.default_rng(0)
    for seed in range(40):
        height, width = 8 * rng.integers(1, 9, 2)
        config = dataclasses.replace(PUBLISHED, nms_radius=int(rng.integers(1, 10)))
        scores = random_scores(seed, height, width, ties=bool(seed % 2))
        found, alone = (
            decode.find_keypoints(scores, (width, height), config, kept)
            for kept in (scratch, Scratch())
        )
        np.testing.assert_array_equal(found, alone)


def test_many_uncertain_pixels_are_compared_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms, "_CHUNK_PIXELS", 500)
    scores = np.full((64, 64), 0.5, np.float32)
    scores[np.random.default_rng(0).random(scores.shape) < 0.02] = 0.6
    expected = torch_keypoints.non_maximum_suppression(torch.from_numpy(scores)[None], 4)[0].numpy()
    np.testing.assert_array_equal(maxima(scores, 4, 0.1), expected > 0.1)


@pytest.mark.parametrize("most", [1, 10, 40, 100])
def test_the_strongest_are_those_of_the_whole_procedure(most: int) -> None:
    for seed in range(10):
        scores = cv2.GaussianBlur(random_scores(seed), (0, 0), 1.5)
        expected = torch_keypoints.non_maximum_suppression(torch.from_numpy(scores)[None], 4)[
            0
        ].numpy()
        floor = np.sort(expected[expected > 0])[-most:].min()
        np.testing.assert_array_equal(maxima(scores, 4, 1e-4, most), expected >= floor)


def test_suppress_is_the_published_procedure() -> None:
    scores = random_scores(7, 24, 32)
    expected = brute_force_suppress(scores, 3)
    np.testing.assert_array_equal(maxima(scores, 3, 0.0), expected)
    assert 5 < expected.sum() < scores.size / 9


def test_pixels_of_suppressed_suppressors_are_recovered() -> None:
    scores = np.zeros((8, 32), np.float32)
    scores[4, [4, 7, 10, 13]] = 0.9, 0.8, 0.7, 0.6  # each suppresses the next one within 4 px
    kept = np.flatnonzero(maxima(scores, 4, 0.1)[4])
    np.testing.assert_array_equal(kept, [4, 10])


@pytest.mark.parametrize("seed", range(3))
def test_subpixel_offsets_equal_the_pytorch_version(seed: int) -> None:
    scores = random_scores(seed)
    y, x = np.nonzero(maxima(scores, 2, 0.1))
    keypoints = torch.from_numpy(np.stack((x, y), 1)).float()[None]
    expected = torch_keypoints.subpixel_offsets(torch.from_numpy(scores)[None], keypoints)[
        0
    ].numpy()
    ours = decode.subpixel_offsets(scores, x, y)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert ours.std() > 0.1
    assert np.abs(ours).max() <= 0.5


@pytest.mark.parametrize("sigma", [1.0, 1.7])
def test_subpixel_recovers_the_peak_of_a_gaussian(sigma: float) -> None:
    rng = np.random.default_rng(0)
    for peak in rng.uniform(12, 36, (20, 2)):
        x, y = np.meshgrid(np.arange(48), np.arange(48))
        square = (x - peak[0]) ** 2 + (y - peak[1]) ** 2
        scores = (0.8 * np.exp(-square / (2 * sigma**2)) + 1e-6).astype(np.float32)
        config = ProcessingConfig(max_keypoints=1)
        descriptors = np.ones((6, 6, 4), np.float32)
        found, strength, _ = decode.decode_features(scores, descriptors, (48, 48), config)
        assert np.abs(found[0] - peak).max() < 0.05
        assert strength[0] == scores.max()


def test_keypoints_are_the_strongest_strongest_first() -> None:
    scores = random_scores(3)
    everything = dataclasses.replace(PUBLISHED, remove_borders=0)
    x, y = decode.find_keypoints(scores, (64, 48), everything)
    strength = scores[y, x]
    assert len(x) > 20
    assert (np.diff(strength) <= 0).all()
    np.testing.assert_array_equal(np.sort(y * 64 + x), np.flatnonzero(maxima(scores, 4, 0.0)))
    for most in (1, 7, len(x), len(x) + 5):
        config = dataclasses.replace(everything, max_keypoints=most)
        top_x, top_y = decode.find_keypoints(scores, (64, 48), config)
        np.testing.assert_array_equal(top_x, x[:most])
        np.testing.assert_array_equal(top_y, y[:most])


@pytest.mark.parametrize(
    ("after", "threshold", "most", "expected"),
    [
        (0, 0.0, -1, 60),
        (0, 0.5, -1, 30),
        (20, 0.5, -1, 30),
        (40, 0.5, -1, 40),
        (99, 0.5, -1, 60),
        (40, 0.5, 35, 35),
        (40, 0.0, -1, 60),
    ],
)
def test_keypoints_after_the_first_k_need_a_higher_score(
    after: int, threshold: float, most: int, expected: int
) -> None:
    scores = np.zeros((96, 96), np.float32)
    strength = np.concatenate((np.linspace(0.99, 0.51, 30), np.linspace(0.49, 0.1, 30)))
    at = np.arange(60)
    scores[10 + at // 8 * 10, 10 + at % 8 * 10] = strength
    everything = dataclasses.replace(PUBLISHED, max_keypoints=most)
    config = dataclasses.replace(
        everything, high_threshold_after=after, high_keypoint_threshold=threshold
    )
    x, y = decode.find_keypoints(scores, (96, 96), config)
    np.testing.assert_allclose(scores[y, x], strength[:expected])


def test_equal_scores_come_in_reading_order() -> None:
    scores = np.zeros((32, 32), np.float32)
    scores[[20, 8, 8], [8, 20, 8]] = 0.5
    x, y = decode.find_keypoints(scores, (32, 32), PUBLISHED)
    assert list(zip(x, y, strict=True)) == [(8, 8), (20, 8), (8, 20)]


@pytest.mark.parametrize("border", [0, 1, 4, 20])
def test_borders_are_those_of_the_image_without_padding(border: int) -> None:
    scores = random_scores(1)  # a 64×48 map
    size = 59, 43
    config = dataclasses.replace(PUBLISHED, remove_borders=border, nms_radius=0)
    x, y = decode.find_keypoints(scores, size, config)
    assert (x.min(), x.max()) == (border, size[0] - 1 - border)
    assert (y.min(), y.max()) == (border, size[1] - 1 - border)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 40), (40, 3), (7, 7), (8, 8)])
def test_an_image_smaller_than_its_borders_has_no_keypoints(size: tuple[int, int]) -> None:
    padded = [-(-side // 8) * 8 for side in size]
    scores = random_scores(2, padded[1], padded[0])
    config = dataclasses.replace(PUBLISHED, nms_radius=1)
    x, _ = decode.find_keypoints(scores, size, config)
    assert len(x) == 0


@pytest.mark.parametrize("size", [(64, 48), (61, 48), (64, 41), (57, 47), (5, 3), (1, 9)])
def test_padding_repeats_the_last_row_and_column(size: tuple[int, int]) -> None:
    width, height = size
    image = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    padded = decode.pad_to_cells(image)
    assert padded.shape[0] % 8 == padded.shape[1] % 8 == 0
    assert padded.shape[0] - height < 8
    assert padded.shape[1] - width < 8
    np.testing.assert_array_equal(
        padded,
        image[
            np.minimum(np.arange(padded.shape[0]), height - 1)[:, None],
            np.minimum(np.arange(padded.shape[1]), width - 1),
        ],
    )


@pytest.mark.parametrize("cells", [(6, 8), (1, 5), (4, 1), (1, 1)])
@pytest.mark.parametrize("sampling", ["published", "exact"])
def test_descriptors_equal_the_pytorch_version(sampling: str, cells: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((*cells, 5)).astype(np.float32)
    size = np.array([cells[1], cells[0]]) * 8
    keypoints = (rng.random((200, 2)) * (size - 1)).astype(np.float32)
    keypoints[:4] = [(0, 0), (size[0] - 1, 0), (0, size[1] - 1), size - 1]
    normalized = dense / np.linalg.norm(dense, axis=2, keepdims=True)
    expected = torch_keypoints.sample_descriptors(
        torch.from_numpy(normalized).permute(2, 0, 1)[None],
        torch.from_numpy(keypoints)[None],
        sampling,  # type: ignore[arg-type]
    )[0].numpy()
    ours = decode.sample_descriptors(dense, keypoints, sampling)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_exact_sampling_meets_the_cell_centers() -> None:
    dense = np.random.default_rng(1).standard_normal((3, 4, 6)).astype(np.float32)
    y, x = np.mgrid[:3, :4]
    centers = np.stack((8 * x + 3.5, 8 * y + 3.5), -1).reshape(-1, 2).astype(np.float32)
    flat = dense.reshape(-1, 6)
    expected = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(
        decode.sample_descriptors(dense, centers, "exact"), expected, atol=1e-6
    )
    # The published grid is stretched: it meets the first cell, and drifts by up to half a pixel.
    published = decode.sample_descriptors(dense, centers, "published")
    np.testing.assert_allclose(published[0], expected[0], atol=1e-6)
    assert np.abs(published - expected).max() > 1e-3


def test_a_zero_descriptor_stays_finite() -> None:
    sampled = decode.sample_descriptors(
        np.zeros((2, 2, 3), np.float32), np.array([[5, 5]], np.float32), "exact"
    )
    np.testing.assert_array_equal(sampled, 0)


def test_a_map_without_keypoints_gives_empty_features() -> None:
    keypoints, scores, descriptors = decode.decode_features(
        np.zeros((16, 16), np.float32),
        np.ones((2, 2, 7), np.float32),
        (16, 16),
        ProcessingConfig(),
    )
    assert (keypoints.shape, scores.shape, descriptors.shape) == ((0, 2), (0,), (0, 7))
    assert keypoints.dtype == scores.dtype == descriptors.dtype == np.float32
