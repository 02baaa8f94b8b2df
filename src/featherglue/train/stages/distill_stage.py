"""The stage "distill": a student learns from a stronger model, the teacher."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from featherglue.artifact.format import load_artifact
from featherglue.config import Provenance
from featherglue.data.scenes import SceneConfig
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.errors import ConfigError
from featherglue.models.model import Model
from featherglue.options import ProcessingConfig
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.losses.distillation_loss import DistillationConfig
from featherglue.train.losses.keypoint_pairs import check_keypoint_range
from featherglue.train.losses.student_teacher import Student
from featherglue.train.losses.superglue_loss import check_depths
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.stages.distillation_parts import (
    finished_model,
    keypoint_finder,
    make_loss,
    make_samples,
    make_validate,
    teacher_on_device,
    trained_networks,
)
from featherglue.train.stages.run_stage import RunContext, RunOptions, TrainingTask, run_stage
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
)
from featherglue.train.stages.validation import ValidationConfig

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class DistillStage:
    """Settings of the stage "distill".

    Attributes:
        loop: settings of the training loop.
        teacher: folder of the teacher.
        part: networks that are trained: "extractor", "matcher" or "both".
        student: sizes and start weights of the student.
        extractor: folder of the model whose extractor finds the keypoints if only the matcher is
            trained; "" takes that of `student.start`.
        distillation: weights of the losses.
        loss: the extractor's loss without a teacher.
        views, labels: as in `SuperPointStage`, for an extractor.
        spatial: fraction of the extractor's samples that are 3D scenes, in [0, 1].
        spatial_views: those 3D scenes.
        scenes, min_keypoints, max_keypoints, sinkhorn_iterations, depths, bf16_keypoints: as in
            `SuperGlueStage`, for a matcher.
        processing: settings of the finished model; None keeps those of `student.start`.
        validation: settings of the validation on held-out views.
        seed: seed of weights and data.
        data: description of the photographs for the model card; "" keeps that of `student.start`.

    Raises:
        ConfigError: a value is out of range, or no loss of a trained network has a weight.
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
    constraint: Callable[[nn.Module], None] = lambda network: None,
    student: Model | None = None,
    student_fingerprint: str = "",
    finish: Callable[[Model], Model] = lambda model: model,
    **options: Unpack[RunOptions],
) -> Model:
    """Train a student and save it as the model `folder/model`.

    Args:
        stage: settings of the stage.
        images: folder of photographs.
        folder: folder of the run; a run with a checkpoint resumes.
        constraint: called after each step with the module of the trained networks and with its
            average, for example to apply pruning masks.
        student: model to train instead of `stage.student`, for example a compressed one. Its layers
            may have parametrizations. It is copied, and must be passed again when a run resumes.
        student_fingerprint: fingerprint of `student`; a run resumes only with the same one.
        finish: called with the trained student; returns the model to save.
        options: see `RunOptions`.

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
        networks = trained_networks(stage, student_model, teacher).to(
            device=run.device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        teacher = teacher_on_device(teacher, student_model, run.device)
        loss = make_loss(stage, student_model, teacher, run.group)
        finder = keypoint_finder(teacher, student_model, artifact, run.device)

        def build(trained: nn.Module, provenance: Provenance) -> Model:
            assert isinstance(trained, Student)
            return finished_model(
                stage, student_model, student_model.with_trained(trained), provenance, finish
            )

        return TrainingTask(
            network=networks,
            loss=loss,
            samples=make_samples(stage, photographs.training, finder, run.device),
            build=build,
            earlier_steps=student_model.model.provenance.recipe,
            validate=make_validate(stage, student_model, photographs.held_out, run.device),
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
        **options,
    )


def _student_model(stage: DistillStage, given: Model | None) -> StudentModel:
    if given is not None:
        student = copy_student(given, stage.part)
    else:
        student = build_student(stage.student, stage.part, stage.extractor)
    if student.matcher is not None:
        check_depths(stage.depths, len(student.matcher.config.layers))
    return student
