"""The loss of descriptors that are trained by true correspondences and by a teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from featherglue.errors import ConfigError
from featherglue.models.keypoints import sample_descriptors
from featherglue.models.model import Model
from featherglue.train.engine.loader import Batch
from featherglue.train.losses.descriptor_map import DescriptorMap
from featherglue.train.losses.feature_distillation_loss import (
    FeatureDistillationConfig,
    FeatureDistillationLoss,
)
from featherglue.train.losses.student_teacher import Student

POINTS = 20


@pytest.fixture
def student(models: dict[str, Model]) -> Student:
    return Student(models["context"].extractor, None, DescriptorMap(16, 16))


@pytest.fixture
def batch(student: Student) -> Batch:
    """Two pairs of equal views; the teacher's descriptors are the student's own."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 1, 64, 64), generator=generator, dtype=torch.uint8)
    points = torch.rand(2, POINTS, 2, generator=generator) * 60
    assert student.extractor is not None
    with torch.no_grad():
        dense = student.extractor.forward_raw(images.float() / 255)[1]
    descriptors = sample_descriptors(dense, points, "exact")
    return {
        "image0": images,
        "image1": images,
        "points0": points,
        "points1": points,
        "teacher0": descriptors,
        "teacher1": descriptors.clone(),
        "count": torch.tensor([POINTS, POINTS // 2]),
        "scene": torch.tensor([-1, -1]),
        "positions": torch.full((2, POINTS, 3), torch.nan),
        "uncertainties": torch.full((2, POINTS), torch.nan),
    }


def measure(student: Student, batch: Batch, **config: Any) -> tuple[float, dict[str, float]]:
    assert student.extractor is not None
    loss = FeatureDistillationLoss(student.extractor, FeatureDistillationConfig(**config))
    value, row = loss(student, batch)
    return float(value.detach()), row


def test_student_equal_to_its_teacher_has_no_descriptor_loss(
    student: Student, batch: Batch
) -> None:
    _, row = measure(student, batch)
    assert row["descriptors"] == pytest.approx(0, abs=1e-5)
    assert row["detector"] == pytest.approx(0, abs=1e-6)
    assert row["matched"] == 1
    batch["teacher1"] = -batch["teacher1"]
    assert measure(student, batch)[1]["descriptors"] == pytest.approx(1, abs=1e-4)


def test_the_loss_is_the_weighted_sum_of_its_parts(student: Student, batch: Batch) -> None:
    weights = {"truth": 0.5, "descriptors": 2.0, "contrast": 0.25, "detector": 1.0}
    value, row = measure(student, batch, **weights)
    assert value == pytest.approx(sum(weights[name] * row[name] for name in weights), rel=1e-5)


def test_padding_does_not_count(student: Student, batch: Batch) -> None:
    expected = measure(student, batch)
    batch["points0"][1, POINTS // 2 :] = 3
    batch["teacher0"][1, POINTS // 2 :] = 0
    assert measure(student, batch) == expected


def test_every_descriptor_of_the_batch_is_a_negative(student: Student, batch: Batch) -> None:
    alone = {name: value[:1] for name, value in batch.items()}
    assert measure(student, batch)[1]["truth"] > measure(student, alone)[1]["truth"]


def test_batch_without_points_has_a_gradient(student: Student, batch: Batch) -> None:
    assert student.extractor is not None
    batch["count"] = torch.tensor([0, 0])
    loss = FeatureDistillationLoss(student.extractor, FeatureDistillationConfig())
    value, _ = loss(student, batch)
    value.backward()
    assert torch.isfinite(value)
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    "config", [{"truth": -1.0}, {"temperature": 0.0}, {"truth": 0, "descriptors": 0, "contrast": 0}]
)
def test_settings_out_of_range_are_rejected(config: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"truth|temperature"):
        FeatureDistillationConfig(**config)


def test_one_point_of_a_scene_is_no_negative_of_itself(student: Student, batch: Batch) -> None:
    """The second pair shows the first ten points of the first one again."""
    for key in ("image0", "image1", "points0", "points1", "teacher0", "teacher1"):
        batch[key][1] = batch[key][0]
    only = {"truth": 1.0, "descriptors": 0.0, "contrast": 1.0, "detector": 0.0}
    confused, _ = measure(student, batch, **only)
    batch["scene"] = torch.tensor([4, 4])
    batch["positions"] = torch.arange(POINTS * 3.0).reshape(1, POINTS, 3).repeat(2, 1, 1)
    batch["uncertainties"] = torch.full((2, POINTS), 0.5)
    known, _ = measure(student, batch, **only)
    assert known < confused - 0.15
    batch["scene"] = torch.tensor([4, 5])
    assert measure(student, batch, **only)[0] == pytest.approx(confused, rel=1e-5)
