"""The stage "distill-features": train descriptors on features of a teacher."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from featherglue.config import Provenance, SuperPointConfig
from featherglue.data.depth_maps import DepthMaps
from featherglue.data.feature_files import FeatureFile
from featherglue.data.match_files import MatchFile
from featherglue.data.multiview import ModelPairs, read_models
from featherglue.data.photo_pair_views import MixedTeacherPairs, PhotoPairViews
from featherglue.data.photographs import PhotoFolder
from featherglue.data.taught_pairs import (
    MatchedTaughtPairs,
    TaughtPairs,
    TransferredTaughtPairs,
)
from featherglue.data.teacher_view_pairs import TeacherViewPairs
from featherglue.data.view_pairs import MultiSizeViews, ViewPairConfig, config_by_size
from featherglue.errors import ConfigError, TrainingError
from featherglue.fingerprint import file_fingerprint
from featherglue.models.model import Model
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_log import Validate
from featherglue.train.losses.descriptor_map import DescriptorMap, MapKind
from featherglue.train.losses.feature_distillation_loss import (
    FeatureDistillationConfig,
    FeatureDistillationLoss,
    Part,
)
from featherglue.train.losses.student_teacher import Student
from featherglue.train.stages.run_stage import RunContext, RunOptions, TrainingTask, run_stage
from featherglue.train.stages.shapes_stage import build_extractor
from featherglue.train.stages.stage_provenance import model_fingerprint, training_steps
from featherglue.train.stages.training_data import model_folder_fingerprints
from featherglue.train.stages.validation import ValidationConfig, make_validation

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class FeatureDistillationStage:
    """Settings of the stage "distill-features".

    The result has no matcher, because the matcher of `start` was trained on other descriptors.

    Attributes:
        loop: settings of the training loop.
        start: folder of the model whose extractor training starts from. The loss preserves its
            detector.
        features: HDF5 file in hloc's layout, with keypoints and descriptors of every photograph,
            by its path below the folder of photographs.
        matches: HDF5 file in hloc's layout, with verified matches between the keypoints of
            `features`: pairs of photographs of one scene. "" for none.
        models: folder of COLMAP models of the photographs; "" for none. The points of a pair are
            those of `features` in one photograph, and their places in the other one.
        depths: folder of the depth maps that `featherglue depth` made of `models`.
        one_scene: whether all real pairs of a batch show one scene of `models`. Points of its other
            photographs are then hard negatives. Those that may be the same point of the scene are
            not used as negatives of each other.
        real: fraction of the samples that show two photographs; used with `matches` or `models`.
        teacher: name and license of the extractor that made `features`, for the model card.
        architecture: the extractor to train, of at least the sizes of `start`; None takes those
            of `start`.
        part: "extractor" trains all layers; "descriptors" trains only those that the detector does
            not use. Encoder and detector then keep their weights, and a step takes less time.
        views: pairs of views; `photometric_strength` is the strength of `augment_appearance`.
        loss: weights of the parts of the loss.
        map: how descriptors are compared with those of a teacher of another width; see
            `DescriptorMap`.
        validation: settings of the validation on held-out views.
        seed: seed of weights and data.
        data: description of the photographs for the model card.
    """

    loop: LoopConfig
    start: str
    features: str
    matches: str = ""
    models: str = ""
    depths: str = ""
    one_scene: bool = False
    real: float = 0.375
    teacher: str = ""
    architecture: SuperPointConfig | None = None
    part: Part = "extractor"
    views: ViewPairConfig = field(default_factory=lambda: ViewPairConfig(size=(256, 256)))
    loss: FeatureDistillationConfig = field(default_factory=FeatureDistillationConfig)
    map: MapKind = "learned"
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.real <= 1:
            raise ConfigError(f"real must be in [0, 1], not {self.real}")
        if bool(self.models) != bool(self.depths):
            raise ConfigError("`depths` are the depth maps of `models`: give both or neither")
        if self.matches and self.models:
            raise ConfigError("give matches or models, not both")
        if self.views.appearance:
            raise ConfigError("views.appearance: all samples of this stage have these changes")
        if self.one_scene and not self.models:
            raise ConfigError("one_scene requires models and depths")


def train_feature_distillation(
    stage: FeatureDistillationStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    **options: Unpack[RunOptions],
) -> Model:
    """Train the extractor and save it as the model `folder/model`.

    Args:
        stage: settings of the stage.
        images: folder of photographs.
        folder: folder of the run; a run with a checkpoint resumes.
        options: see `RunOptions`.

    Raises:
        TrainingError: as `run_stage`; or a photograph has no features, or the architecture cannot
            grow from `start`.
        MissingExtraError: h5py is not installed.
    """
    base = Model.load(stage.start)
    if base.extractor is None:
        raise TrainingError(f"{stage.start}: the model lacks the network to start from")
    architecture = stage.architecture or base.extractor.config
    features = FeatureFile(stage.features)
    inputs = {"features": file_fingerprint(stage.features)}
    if stage.matches:
        inputs["matches"] = file_fingerprint(stage.matches)
    if stage.models:
        inputs |= model_folder_fingerprints(stage.models, stage.depths)

    def build(trained: nn.Module, provenance: Provenance) -> Model:
        assert isinstance(trained, Student)
        return replace(base, extractor=trained.extractor, matcher=None, provenance=provenance)

    def prepare(run: RunContext) -> TrainingTask:
        photographs = run.require_photographs()
        extractor = build_extractor(architecture, stage.start)
        original = copy.deepcopy(extractor).eval().requires_grad_(False).to(run.device)
        width = extractor.config.descriptor_dim
        descriptor_map = DescriptorMap(width, features.descriptor_dim, stage.map)
        network = Student(extractor, None, descriptor_map)
        validation = make_validation(
            photographs.held_out, stage.views.photometric_strength, stage.validation, run.device
        )
        return TrainingTask(
            network=network.to(device=run.device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            loss=FeatureDistillationLoss(original, stage.loss, stage.part, run.group),
            samples=_samples(stage, photographs.training, features),
            build=build,
            earlier_steps=training_steps(stage.start, "extractor"),
            sources=(stage.start,),
            validate=None if validation is None else _of_student(validation.of_extractor()),
            facts=inputs,
        )

    return run_stage(
        "distill-features",
        stage,
        prepare,
        images,
        folder,
        validation=stage.validation,
        inputs=inputs | model_fingerprint("start", stage.start),
        **options,
    )


def _samples(
    stage: FeatureDistillationStage, photos: PhotoFolder, features: FeatureFile
) -> TeacherViewPairs | MixedTeacherPairs | MultiSizeViews:
    """The training pairs of the stage."""
    batch_size = stage.loop.batch_size
    pairs: TaughtPairs | None = None
    if stage.models:
        depths = DepthMaps(stage.depths, photos)
        models = ModelPairs(read_models(stage.models, photos), depths)
        pairs = TransferredTaughtPairs(photos, features, models)
    elif stage.matches:
        matches = MatchFile(stage.matches, photos.names)
        pairs = MatchedTaughtPairs(photos, features, matches)

    def of_size(config: ViewPairConfig) -> TeacherViewPairs | MixedTeacherPairs:
        warped = TeacherViewPairs(photos, features, config, stage.seed)
        if pairs is None:
            return warped
        group = batch_size if stage.one_scene else None
        real = PhotoPairViews(photos, pairs, config, stage.seed, group)
        return MixedTeacherPairs(warped, real, stage.real, stage.seed)

    sources = [of_size(config) for config in config_by_size(stage.views)]
    return sources[0] if len(sources) == 1 else MultiSizeViews(sources, batch_size, stage.seed)


def _of_student(measure: Validate) -> Validate:
    """Measure the extractor of a `Student`."""

    def validate(student: nn.Module) -> dict[str, float]:
        assert isinstance(student, Student) and student.extractor is not None
        return dict(measure(student.extractor))

    return validate
