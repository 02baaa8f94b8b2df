"""The stage "distill": a student learns from a stronger model, the teacher."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from featherglue.artifact.format import Artifact, load_artifact
from featherglue.config import Provenance
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import SceneConfig
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.errors import ConfigError
from featherglue.models.model import Model
from featherglue.options import ProcessingConfig
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.loader import CombinedBatches, CombinedSamples
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_log import Report, Validate
from featherglue.train.losses.descriptor_map import DescriptorMap
from featherglue.train.losses.distillation_loss import DistillationConfig, DistillationLoss
from featherglue.train.losses.keypoint_pairs import check_keypoint_range
from featherglue.train.losses.student_teacher import Student, Teacher
from featherglue.train.losses.superglue_loss import SuperGlueLoss, check_depths
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.stages.run_stage import RunContext, TrainingTask, run_stage
from featherglue.train.stages.stage_provenance import model_fingerprint
from featherglue.train.stages.student import (
    Part,
    StudentConfig,
    StudentModel,
    build_student,
    build_teacher,
    copy_student,
)
from featherglue.train.stages.training_data import (
    LabelsConfig,
    check_views,
    default_spatial_views,
    extractor_views,
    matcher_scenes,
    photographs_on_device,
)
from featherglue.train.stages.validation import ValidationConfig, make_validation


@dataclass(frozen=True, kw_only=True)
class DistillStage:
    """Settings of the stage "distill".

    Attributes:
        loop: Settings of the training loop.
        teacher: Folder of the teacher.
        part: Networks that are trained: "extractor", "matcher" or "both".
        student: Sizes and start weights of the student.
        extractor: Folder of the model whose extractor finds the keypoints if only the matcher is
            trained; "" takes that of `student.start`.
        distillation: Weights of the losses.
        loss: The extractor's loss without a teacher.
        views, labels: As in `SuperPointStage`, for an extractor.
        spatial: Fraction of the extractor's samples that are 3D scenes, in [0, 1].
        spatial_views: Those 3D scenes.
        scenes, min_keypoints, max_keypoints, sinkhorn_iterations, depths, bf16_keypoints: As in
            `SuperGlueStage`, for a matcher.
        processing: Settings of the finished model; None keeps those of `student.start`.
        validation: Held-out views.
        seed: Seed of weights and data.
        data: Description of the photographs for the model card; "" keeps that of `student.start`.
    """

    loop: LoopConfig
    teacher: str
    part: Part = "both"
    student: StudentConfig = field(default_factory=StudentConfig)
    extractor: str = ""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    loss: SuperPointLoss = field(default_factory=SuperPointLoss)
    views: ViewPairConfig = field(default_factory=ViewPairConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    spatial: float = 0.0
    spatial_views: SceneConfig = field(default_factory=default_spatial_views)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    min_keypoints: int = 128
    max_keypoints: int = 256
    sinkhorn_iterations: int = 20
    depths: tuple[int, ...] = ()
    bf16_keypoints: bool = False
    processing: ProcessingConfig | None = None
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        if self.part not in ("extractor", "matcher", "both"):
            raise ConfigError(f"part must be 'extractor', 'matcher' or 'both', not {self.part!r}")
        check_views(self.spatial, self.spatial_views, self.views, self.loss)
        check_keypoint_range(self.min_keypoints, self.max_keypoints)
        weights = self.distillation
        totals = {
            "extractor": weights.scores + weights.descriptors + weights.true_views,
            "matcher": weights.assignment + weights.true_matches,
        }
        for name, total in totals.items():
            if self.part in (name, "both") and total == 0:
                raise ConfigError(
                    f"all weights of the {name} in `distillation` are 0: increase at least one"
                )


def train_distill(
    stage: DistillStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    minutes: float = float("inf"),
    device: str = "cpu",
    report: Report = lambda step, row: None,
    constraint: Callable[[nn.Module], None] = lambda network: None,
    student: Model | None = None,
    student_fingerprint: str = "",
    finish: Callable[[Model], Model] = lambda model: model,
) -> Model:
    """Train a student and save it as the model `folder/model`; see `run_stage`.

    Args:
        images: Folder of photographs.
        folder: Folder of the run; a run with a checkpoint resumes.
        constraint: Called after each step with the module of the trained networks and with its
            average, for example to apply pruning masks.
        student: Model to train instead of `stage.student`, for example a compressed one. Its layers
            may have parametrizations. It is copied, and must be passed again when a run resumes.
        student_fingerprint: Fingerprint of `student`; a run resumes only with the same one.
        finish: Called with the trained student; returns the model to save.

    Raises:
        TrainingError: as `run_stage`; or the teacher or the start model lacks a network.
        ConfigError: the networks do not fit each other.
    """
    artifact = load_artifact(stage.teacher)
    inputs = {"teacher": artifact.hash} | (
        {"student": student_fingerprint} if student_fingerprint else {}
    )

    def prepare(run: RunContext) -> TrainingTask:
        photographs = run.require_photographs()
        student_model = _student_model(stage, student)
        teacher = build_teacher(artifact, student_model)
        networks = _trained_networks(stage, student_model, teacher).to(
            device=run.device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        teacher = _to_device(teacher, student_model, run.device)
        loss = _make_loss(stage, student_model, teacher, run.group)
        finder = _keypoint_finder(teacher, student_model, artifact, run.device)

        def build(trained: nn.Module, provenance: Provenance) -> Model:
            assert isinstance(trained, Student)
            return _finished_model(
                stage, student_model, student_model.with_trained(trained), provenance, finish
            )

        return TrainingTask(
            network=networks,
            loss=loss,
            samples=_make_samples(stage, photographs.training, finder, run.device),
            build=build,
            earlier_steps=student_model.model.provenance.recipe,
            validate=_make_validate(stage, student_model, photographs.held_out, run.device),
            constraint=constraint,
            facts=inputs,
        )

    return run_stage(
        "distill",
        stage,
        prepare,
        images,
        folder,
        validation=stage.validation,
        labels=stage.labels,
        inputs=inputs | model_fingerprint("extractor", stage.extractor),
        minutes=minutes,
        device=device,
        report=report,
    )


def _student_model(stage: DistillStage, given: Model | None) -> StudentModel:
    if given is not None:
        student = copy_student(given, stage.part)
    else:
        student = build_student(stage.student, stage.part, stage.extractor)
    if student.matcher is not None:
        check_depths(stage.depths, len(student.matcher.config.layers))
    return student


def _trained_networks(stage: DistillStage, student: StudentModel, teacher: Teacher) -> Student:
    descriptor_map = None
    if student.extractor is not None and teacher.extractor is not None:
        width, target = (
            network.config.descriptor_dim for network in (student.extractor, teacher.extractor)
        )
        descriptor_map = DescriptorMap(width, target, stage.distillation.map)
    return Student(student.extractor, student.matcher, descriptor_map)


def _to_device(teacher: Teacher, student: StudentModel, device: str) -> Teacher:
    """The teacher, after moving its networks and the keypoint extractor to the device."""
    for network in (teacher.extractor, teacher.matcher, student.keypoint_extractor):
        if network is not None:
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher


def _make_loss(
    stage: DistillStage, student: StudentModel, teacher: Teacher, group: ProcessGroup
) -> DistillationLoss:
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


def _keypoint_finder(
    teacher: Teacher, student: StudentModel, artifact: Artifact, device: str
) -> Artifact | None:
    """The artifact with which worker processes find the keypoints; None leaves it to the loss.

    Worker processes require a frozen extractor that teacher and student have in common. On a GPU
    the loss finds keypoints faster.
    """
    shared = student.part == "matcher" and teacher.extractor is None and device == "cpu"
    return artifact if shared and artifact.architecture.extractor is not None else None


def _make_samples(
    stage: DistillStage, photos: PhotoFolder, finder: Artifact | None, device: str
) -> CombinedSamples | CombinedBatches:
    atlas = photographs_on_device(photos, device)
    sources: dict[str, Any] = {}
    if stage.part != "matcher":
        sources["views"] = extractor_views(
            photos, stage.views, stage.spatial_views, stage.spatial, stage.seed, atlas
        )
    if stage.part != "extractor":
        sources["scenes"] = matcher_scenes(
            photos, stage.scenes, stage.seed, atlas, finder, stage.max_keypoints
        )
    return CombinedSamples(sources) if atlas is None else CombinedBatches(sources)


def _make_validate(
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


def _finished_model(
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
