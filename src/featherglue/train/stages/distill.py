"""The stage that teaches a thin student what a stronger model knows."""

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
from featherglue.train.engine.distributed import World, join_world
from featherglue.train.engine.loop import LoopConfig, check_time, train
from featherglue.train.engine.run_log import Report, Validate
from featherglue.train.losses.distillation import DescriptorMap
from featherglue.train.losses.superglue_loss import SuperGlueLoss, check_depths, check_keypoints
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.losses.teacher_student import (
    BatchesSideBySide,
    DistillLoss,
    ImitationConfig,
    SideBySide,
    Student,
    Teacher,
)
from featherglue.train.stages.run_setup import (
    keep_settings,
    model_fact,
    provenance,
    save_models,
    trained_on,
)
from featherglue.train.stages.student import (
    Part,
    Pupil,
    StudentChoice,
    build_pupil,
    build_teacher,
    given_pupil,
)
from featherglue.train.stages.training_data import (
    LabelChoice,
    check_views,
    extractor_views,
    label_fact,
    matcher_scenes,
    on_device,
    read_photographs,
)
from featherglue.train.stages.validation import ValidationConfig, make_validation


@dataclass(frozen=True, kw_only=True)
class DistillStage:
    """A student's extractor, its matcher, or both at once, from a teacher and from the truth.

    Attributes:
        teacher: folder of the model to learn from.
        part: what is trained. student: its sizes and the weights that it starts from.
        extractor: folder of the model whose extractor gives the keypoints where the matcher alone
            is trained; "" takes that of `student.start`.
        imitation: the weights of the losses. loss: the extractor's without a teacher.
        views, labels: as in `SuperPointStage`, for an extractor. spatial: share of 3D scenes
            among them, as `spatial_views` says.
        scenes, fewest, most, sinkhorn_iterations, depths, bf16_keypoints: as in
            `SuperGlueStage`, for a matcher.
        processing: what the finished model uses; None keeps that of `student.start`.
        data: a sentence on the photographs, for the model card; "" keeps what is said there.
    """

    loop: LoopConfig
    teacher: str
    part: Part = "both"
    student: StudentChoice = field(default_factory=StudentChoice)
    extractor: str = ""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    loss: SuperPointLoss = field(default_factory=SuperPointLoss)
    views: ViewPairConfig = field(default_factory=ViewPairConfig)
    labels: LabelChoice = field(default_factory=LabelChoice)
    spatial: float = 0.0
    spatial_views: SceneConfig = field(
        default_factory=lambda: SceneConfig(size=(176, 176), max_planes=4, detail=(0.5, 1.3))
    )
    scenes: SceneConfig = field(default_factory=SceneConfig)
    fewest: int = 128
    most: int = 256
    sinkhorn_iterations: int = 20
    depths: tuple[int, ...] = ()
    bf16_keypoints: bool = False
    processing: ProcessingConfig | None = None
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        if self.part not in ("extractor", "matcher", "both"):
            raise ConfigError(f"part is 'extractor', 'matcher' or 'both', not {self.part!r}")
        check_views(self.spatial, self.spatial_views, self.views, self.loss)
        check_keypoints(self.fewest, self.most)
        how = self.imitation
        weights = {
            "extractor": how.scores + how.descriptors + how.true_views,
            "matcher": how.assignment + how.true_matches,
        }
        for name, weight in weights.items():
            if self.part in (name, "both") and weight == 0:
                raise ConfigError(f"nothing teaches the {name}: a weight of imitation must be > 0")


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
    mark: str = "",
    finish: Callable[[Model], Model] = lambda model: model,
) -> Model:
    """Train a student and save it, with its run, as the model `folder/model`.

    The weights that did best in validation become the model `folder/best`.

    Args:
        images: folder of photographs. folder: of the run; one that holds a checkpoint goes on.
        minutes: stop, resumable, after this time.
        constraint: called after each step with the module that holds the networks which are
            trained, and with its average, to hold what must hold, such as masks.
        student: what to train instead of `stage.student`: a compressed model, whose layers may
            hold parametrizations. It is copied. The same is to be given when a run goes on.
        mark: tells such students apart; a run goes on with its own only.
        finish: makes of the trained student the model that is saved and returned.

    Raises:
        TrainingError: no usable photographs, a loss that is not finite, a foreign checkpoint, a
            teacher or a start that lacks what is needed.
        ConfigError: a student or `stage.student` that does not fit together.
    """
    check_time(stage.loop, minutes, folder)
    world, device = join_world(device)
    artifact = load_artifact(stage.teacher)
    photos, kept = read_photographs(images, stage.validation, stage.labels)
    facts = {"teacher": artifact.hash} | ({"student": mark} if mark else {})
    keep_settings(
        stage,
        folder,
        facts | model_fact("extractor", stage.extractor) | label_fact(stage.labels),
    )
    torch.manual_seed(stage.seed)
    pupil = _pupil(stage, student)
    teacher = build_teacher(artifact, pupil)
    network = _student(stage, pupil, teacher).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = train(
        network,
        _loss(stage, pupil, _on_device(teacher, pupil, device), world),
        _samples(stage, photos, _finder(teacher, pupil, artifact, device), device),
        stage.loop,
        folder,
        minutes=minutes,
        report=report,
        validate=_validate(stage, pupil, kept, device),
        constraint=constraint,
        world=world,
    )
    before = pupil.model.provenance
    facts |= trained_on(device, world)
    made = provenance(
        before.recipe, "distill", stage, folder, {"photographs": len(photos), **facts}
    )
    made = replace(
        made,
        parent=pupil.parent,
        data=stage.data or before.data,
        license=before.license or made.license,
    )
    return save_models(
        lambda trained: _finished(stage, pupil.with_trained(trained), made, finish),
        average,
        folder,
        world,
    )


def _pupil(stage: DistillStage, student: Model | None) -> Pupil:
    if student is not None:
        pupil = given_pupil(student, stage.part)
    else:
        pupil = build_pupil(stage.student, stage.part, stage.extractor)
    if pupil.matcher is not None:
        check_depths(stage.depths, len(pupil.matcher.config.layers))
    return pupil


def _student(stage: DistillStage, pupil: Pupil, teacher: Teacher) -> Student:
    descriptor_map = None
    if pupil.extractor is not None and teacher.extractor is not None:
        width, target = (
            network.config.descriptor_dim for network in (pupil.extractor, teacher.extractor)
        )
        descriptor_map = DescriptorMap(width, target, stage.imitation.map)
    return Student(pupil.extractor, pupil.matcher, descriptor_map)


def _on_device(teacher: Teacher, pupil: Pupil, device: str) -> Teacher:
    """The teacher, and what finds the keypoints, where the student is."""
    for network in (teacher.extractor, teacher.matcher, pupil.keypoints):
        if network is not None:
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher


def _loss(stage: DistillStage, pupil: Pupil, teacher: Teacher, world: World) -> DistillLoss:
    matches = None
    if pupil.keypoints is not None:
        matches = SuperGlueLoss(
            pupil.keypoints,
            fewest=stage.fewest,
            most=stage.most,
            iterations=stage.sinkhorn_iterations,
            depths=stage.depths,
            bf16=stage.bf16_keypoints,
        )
    return DistillLoss(teacher, stage.imitation, stage.loss, matches, world)


def _finder(teacher: Teacher, pupil: Pupil, artifact: Artifact, device: str) -> Artifact | None:
    """Whose keypoints can be found before a batch is made: the teacher's, if they are the
    student's, too. A GPU finds them faster than the processes that feed it."""
    shared = pupil.part == "matcher" and teacher.extractor is None and device == "cpu"
    return artifact if shared and artifact.architecture.extractor is not None else None


def _samples(
    stage: DistillStage, photos: PhotoFolder, finder: Artifact | None, device: str
) -> SideBySide | BatchesSideBySide:
    atlas = on_device(photos, device)
    sources: dict[str, Any] = {}
    if stage.part != "matcher":
        sources["views"] = extractor_views(
            photos, stage.views, stage.spatial_views, stage.spatial, stage.seed, atlas
        )
    if stage.part != "extractor":
        sources["scenes"] = matcher_scenes(
            photos, stage.scenes, stage.seed, atlas, finder, stage.most
        )
    return SideBySide(sources) if atlas is None else BatchesSideBySide(sources)


def _validate(
    stage: DistillStage, pupil: Pupil, kept: PhotoFolder | None, device: str
) -> Validate | None:
    """A function that measures a `Student` as its part is measured in the stage of that part."""
    light = stage.views.light if stage.part == "extractor" else stage.scenes.light
    validation = make_validation(kept, light, stage.validation, device)
    if validation is None:
        return None
    of_extractor = validation.of_extractor()
    frozen = pupil.keypoints if pupil.extractor is None else None
    of_matcher = None if frozen is None else validation.of_matcher(frozen)

    def measure(student: nn.Module) -> dict[str, float]:
        assert isinstance(student, Student)
        if student.matcher is None:
            assert student.extractor is not None
            return of_extractor(student.extractor)
        if of_matcher is not None:
            return of_matcher(student.matcher)
        assert student.extractor is not None
        return validation.of_matcher(student.extractor)(student.matcher)

    return measure


def _finished(
    stage: DistillStage, model: Model, made: Provenance, finish: Callable[[Model], Model]
) -> Model:
    model = finish(replace(model, provenance=made))
    return model if stage.processing is None else replace(model, processing=stage.processing)
