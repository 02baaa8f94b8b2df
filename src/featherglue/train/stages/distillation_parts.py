"""The parts of a distillation run: networks, loss, samples, validation and the saved model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from featherglue.artifact.format import Artifact
from featherglue.config import Provenance
from featherglue.data.photographs import PhotoFolder
from featherglue.models.model import Model
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.loader import CombinedBatches, CombinedSamples
from featherglue.train.engine.run_log import Validate
from featherglue.train.losses.descriptor_map import DescriptorMap
from featherglue.train.losses.distillation_loss import DistillationLoss
from featherglue.train.losses.student_teacher import Student, Teacher
from featherglue.train.losses.superglue_loss import SuperGlueLoss
from featherglue.train.stages.student import StudentModel
from featherglue.train.stages.training_data import (
    extractor_views,
    made_on_cpu,
    matcher_scenes,
    photographs_on_device,
)
from featherglue.train.stages.validation import make_validation

if TYPE_CHECKING:
    from featherglue.train.stages.distill_stage import DistillStage


def trained_networks(stage: DistillStage, student: StudentModel, teacher: Teacher) -> Student:
    """The networks to train: those of the student, and the map of its descriptors."""
    descriptor_map = None
    if student.extractor is not None and teacher.extractor is not None:
        width, target = (
            network.config.descriptor_dim for network in (student.extractor, teacher.extractor)
        )
        descriptor_map = DescriptorMap(width, target, stage.distillation.map)
    return Student(student.extractor, student.matcher, descriptor_map)


def teacher_on_device(teacher: Teacher, student: StudentModel, device: str) -> Teacher:
    """The teacher, after moving its networks and the keypoint extractor to the device."""
    for network in (teacher.extractor, teacher.matcher, student.keypoint_extractor):
        if network is not None:
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher


def make_loss(
    stage: DistillStage, student: StudentModel, teacher: Teacher, group: ProcessGroup
) -> DistillationLoss:
    """The loss of the trained networks, with the keypoints of the student's extractor."""
    superglue = None
    if student.keypoint_extractor is not None:
        superglue = SuperGlueLoss(
            student.keypoint_extractor,
            min_keypoints=stage.min_keypoints,
            max_keypoints=stage.max_keypoints,
            iterations=stage.sinkhorn_iterations,
            depths=stage.depths,
            bf16=stage.bf16_keypoints,
        )
    return DistillationLoss(teacher, stage.distillation, stage.loss, superglue, group)


def keypoint_finder(
    teacher: Teacher, student: StudentModel, artifact: Artifact, device: str
) -> Artifact | None:
    """The artifact with which worker processes find the keypoints; None leaves it to the loss.

    Worker processes require a frozen extractor that teacher and student have in common. On a GPU
    the loss finds keypoints faster.
    """
    shared = student.part == "matcher" and teacher.extractor is None and device == "cpu"
    return artifact if shared and artifact.architecture.extractor is not None else None


def make_samples(
    stage: DistillStage, photos: PhotoFolder, finder: Artifact | None, device: str
) -> CombinedSamples | CombinedBatches:
    """The training data: `views` for an extractor, `scenes` for a matcher; see `training_data`.

    Args:
        stage: settings of the data.
        photos: the photographs.
        finder: artifact with which worker processes find the keypoints; None leaves it to the loss.
        device: "cpu", or "cuda" if the GPU makes whole batches from photographs in its memory.
    """
    on_cpu = stage.part != "matcher" and made_on_cpu(stage.views)
    atlas = None if on_cpu else photographs_on_device(photos, device)
    sources: dict[str, Any] = {}
    if stage.part != "matcher":
        sources["views"] = extractor_views(
            photos,
            stage.views,
            stage.spatial_views,
            stage.spatial,
            stage.seed,
            atlas,
            stage.loop.batch_size,
        )
    if stage.part != "extractor":
        sources["scenes"] = matcher_scenes(
            photos, stage.scenes, stage.seed, atlas, finder, stage.max_keypoints
        )
    return CombinedSamples(sources) if atlas is None else CombinedBatches(sources)


def make_validate(
    stage: DistillStage, student: StudentModel, held_out: PhotoFolder | None, device: str
) -> Validate | None:
    """A function that measures a `Student` as the stage of the trained part does."""
    views = stage.views if stage.part == "extractor" else stage.scenes
    strength = views.photometric_strength
    validation = make_validation(held_out, strength, stage.validation, device)
    if validation is None:
        return None
    measure_extractor = validation.of_extractor()
    frozen = student.keypoint_extractor if student.extractor is None else None
    measure_matcher = None if frozen is None else validation.of_matcher(frozen)

    def measure(networks: nn.Module) -> dict[str, float]:
        assert isinstance(networks, Student)
        if networks.matcher is None:
            assert networks.extractor is not None
            return measure_extractor(networks.extractor)
        if measure_matcher is not None:
            return measure_matcher(networks.matcher)
        assert networks.extractor is not None
        return validation.of_matcher(networks.extractor)(networks.matcher)

    return measure


def finished_model(
    stage: DistillStage,
    student: StudentModel,
    trained: Model,
    provenance: Provenance,
    finish: Callable[[Model], Model],
) -> Model:
    """The model to save: provenance of the student and of this run, processing of the stage."""
    before = student.model.provenance
    provenance = replace(
        provenance,
        parent=student.parent,
        data=stage.data or before.data,
        license=before.license or provenance.license,
    )
    model = finish(replace(trained, provenance=provenance))
    return model if stage.processing is None else replace(model, processing=stage.processing)
