"""Masks remove keypoints, and others take their places."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.errors import ImageError
from featherglue.session import Session, load


def test_keypoints_lie_where_the_mask_is_not_zero(session: Session, gray: np.ndarray) -> None:
    session = session.with_settings(max_keypoints=60)
    mask = np.zeros_like(gray)
    mask[:, 150:] = 1
    features = session.extract(gray, mask=mask)
    assert len(features) == 60
    assert (features.keypoints[:, 0] >= 149.5).all()
    assert (np.diff(features.scores) <= 0).all()
    everything = session.extract(gray, mask=np.ones_like(gray))
    assert np.array_equal(everything.keypoints, session.extract(gray).keypoints)


def test_a_mask_is_a_file_too(session: Session, gray: np.ndarray, tmp_path: Path) -> None:
    mask = np.zeros_like(gray)
    mask[100:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    features = session.extract(gray, mask=tmp_path / "mask.png")
    assert len(features) > 0
    assert features.keypoints[:, 1].min() >= 99.5


def test_sift_fills_its_number_of_keypoints_too(gray: np.ndarray) -> None:
    session = load(features="sift", matcher="nn", max_keypoints=40)
    mask = np.zeros_like(gray)
    mask[:, :120] = 255
    assert len(session.extract(gray, mask=mask)) == 40


def test_a_mask_of_another_size_is_refused(session: Session, gray: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"the mask has 10×5 pixels, the image 320×256"):
        session.extract(gray, mask=np.ones((5, 10), np.uint8))
