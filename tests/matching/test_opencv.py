"""SIFT and ORB features."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import pytest

from featherglue.matching.opencv import extract_classical

Kind = Literal["sift", "orb"]
WIDTHS = {"sift": 128, "orb": 256}


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("most", [1, 50, 300, -1])
def test_features_are_sorted_normalized_and_limited(
    kind: Kind, most: int, gray: np.ndarray
) -> None:
    keypoints, scores, descriptors = extract_classical(kind, gray, most)
    count = len(keypoints)
    assert 0.8 * most <= count <= most if 0 < most < 300 else count > 150
    assert keypoints.dtype == scores.dtype == descriptors.dtype == np.float32
    assert descriptors.shape == (count, WIDTHS[kind])
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)
    assert scores[0] == 1
    assert (np.diff(scores) <= 0).all()
    assert scores.min() >= 0
    assert (keypoints >= -0.5).all()
    assert (keypoints <= (gray.shape[1] - 0.5, gray.shape[0] - 0.5)).all()


def test_a_limit_keeps_the_strongest(gray: np.ndarray) -> None:
    every, few = (extract_classical("sift", gray, most) for most in (-1, 40))
    assert len(few[0]) == 40
    np.testing.assert_array_equal(few[0], every[0][:40])
    np.testing.assert_array_equal(few[1], every[1][:40])


def test_orb_products_rank_like_hamming_distances(gray: np.ndarray) -> None:
    _, _, descriptors = extract_classical("orb", gray, 60)
    bits = descriptors > 0
    hamming = (bits[:, None] != bits[None]).sum(2)
    np.testing.assert_allclose(descriptors @ descriptors.T, 1 - hamming / 128, atol=1e-5)
    assert 60 < np.median(hamming) < 180


def test_sift_is_opencvs_with_root_descriptors(gray: np.ndarray) -> None:
    found, raw = cv2.SIFT.create(enable_precise_upscale=True).detectAndCompute(gray, None)
    keypoints, _, descriptors = extract_classical("sift", gray, -1)
    order = np.argsort([-point.response for point in found], kind="stable")
    np.testing.assert_allclose(keypoints, np.array([found[i].pt for i in order], np.float32))
    expected = raw[order] / raw[order].sum(1, keepdims=True)
    np.testing.assert_allclose(descriptors**2, expected, atol=1e-5)


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 50), (3, 3), (2, 400)])
def test_images_without_features(kind: Kind, shape: tuple[int, int]) -> None:
    for image in (
        np.full(shape, 90, np.uint8),
        np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    ):
        keypoints, scores, descriptors = extract_classical(kind, image, 100)
        assert len(keypoints) == len(scores) == len(descriptors)
        assert descriptors.shape[1] == WIDTHS[kind]
        if image.std() == 0:
            assert len(keypoints) == 0
