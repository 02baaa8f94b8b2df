"""The stages of training, each from one configuration to a model.

A stage reads a TOML file whose tables are the dataclasses below; every key has a default, unknown
ones are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from featherglue.artifact.format import load_artifact
from featherglue.config import ArchitectureConfig, SuperGlueConfig, SuperPointConfig, from_dict
from featherglue.data.scenes import SceneConfig
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.errors import TrainingError
from featherglue.io.toml import read_toml
from featherglue.models.model import Model
from featherglue.options import ProcessingConfig
from featherglue.train.engine.checkpoint import BEST, CURVES, LAST, LOG
from featherglue.train.engine.distributed import join_world
from featherglue.train.engine.loop import LoopConfig, check_time, train
from featherglue.train.engine.run_log import Report
from featherglue.train.losses.superglue_loss import SuperGlueLoss, check_depths, check_keypoints
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.stages.adapt import AdaptStage, adapt, label_file
from featherglue.train.stages.distill import DistillStage, train_distill
from featherglue.train.stages.magicpoint import ShapesStage, train_shapes
from featherglue.train.stages.run_setup import (
    folded_extractor,
    history,
    keep_settings,
    model_fact,
    provenance,
    save_models,
    start_from,
    trained_on,
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

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SuperPointStage:
    """Detector and descriptor, from scratch, on pairs of views of photographs.

    Attributes:
        spatial: share of the samples that are 3D scenes, as `scenes` says, instead of `views`.
        labels: keypoints to learn.
        start: folder of a model whose extractor to start from, of this architecture or a smaller
            one; "" starts from scratch.
        data: a sentence on the photographs, for the model card.
    """

    loop: LoopConfig
    architecture: SuperPointConfig = field(default_factory=SuperPointConfig)
    views: ViewPairConfig = field(default_factory=ViewPairConfig)
    scenes: SceneConfig = field(
        default_factory=lambda: SceneConfig(size=(176, 176), max_planes=4, detail=(0.5, 1.3))
    )
    spatial: float = 0.0
    labels: LabelChoice = field(default_factory=LabelChoice)
    loss: SuperPointLoss = field(default_factory=SuperPointLoss)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    start: str = ""
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        check_views(self.spatial, self.scenes, self.views, self.loss)


@dataclass(frozen=True, kw_only=True)
class SuperGlueStage:
    """The matcher, from scratch, on scenes seen through a trained extractor.

    Attributes:
        extractor: folder of the model whose extractor gives the keypoints.
        fewest, most: keypoints an image, drawn for each batch.
        sinkhorn_iterations: in training.
        depths: numbers of layers after which there is a loss as well as after the last.
        bf16_keypoints: run the extractor in bfloat16.
        start: folder of a model whose matcher to start from, of this architecture, a smaller one,
            or with wider heads; "" starts from comparing descriptors as they are.
        processing: what the finished model uses.
    """

    loop: LoopConfig
    extractor: str
    architecture: SuperGlueConfig = field(default_factory=SuperGlueConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    fewest: int = 128
    most: int = 256
    sinkhorn_iterations: int = 20
    depths: tuple[int, ...] = ()
    bf16_keypoints: bool = False
    processing: ProcessingConfig = field(default_factory=ProcessingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    start: str = ""
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        check_depths(self.depths, len(self.architecture.layers))
        check_keypoints(self.fewest, self.most)


def read_stage(cls: type[T], path: str | os.PathLike[str]) -> T:
    """A stage's configuration from a TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown or missing key.
    """
    return from_dict(cls, read_toml(path), str(path))


def train_superpoint(
    stage: SuperPointStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    minutes: float = float("inf"),
    device: str = "cpu",
    report: Report = lambda step, row: None,
) -> Model:
    """Train an extractor and save it, with its run, as the model `folder/model`.

    The weights that did best in validation become the model `folder/best`.

    Args:
        images: folder of photographs. folder: of the run; one that holds a checkpoint goes on.
        minutes: stop, resumable, after this time.

    Raises:
        TrainingError: no usable photographs, a loss that is not finite, a foreign checkpoint.
    """
    check_time(stage.loop, minutes, folder)
    world, device = join_world(device)
    photos, kept = read_photographs(images, stage.validation, stage.labels)
    keep_settings(stage, folder, label_fact(stage.labels))
    torch.manual_seed(stage.seed)
    model = Model.build(ArchitectureConfig(extractor=stage.architecture))
    assert model.extractor is not None
    if stage.start:
        start_from(model.extractor, Model.load(stage.start), stage.start)
    network = model.extractor.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    atlas = on_device(photos, device)
    views = extractor_views(photos, stage.views, stage.scenes, stage.spatial, stage.seed, atlas)
    validation = make_validation(kept, stage.views.light, stage.validation, device)
    average = train(
        network,
        stage.loss,
        views,
        stage.loop,
        folder,
        minutes=minutes,
        report=report,
        validate=None if validation is None else validation.of_extractor(),
        world=world,
    )
    facts = {"photographs": len(photos), **trained_on(device, world)}
    before = history(stage.start, "extractor")
    made = provenance(before, "superpoint", stage, folder, facts, (stage.start,))
    model = replace(model, provenance=made)
    return save_models(lambda net: replace(model, extractor=net), average, folder, world)


def train_superglue(
    stage: SuperGlueStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    minutes: float = float("inf"),
    device: str = "cpu",
    report: Report = lambda step, row: None,
) -> Model:
    """Train a matcher for the stage's extractor and save the pair as the model `folder/model`.

    Args and errors as in `train_superpoint`.
    """
    check_time(stage.loop, minutes, folder)
    world, device = join_world(device)
    base = Model.load(stage.extractor)
    if base.extractor is None:
        raise TrainingError(f"{stage.extractor}: a model without an extractor")
    photos, kept = read_photographs(images, stage.validation)
    keep_settings(stage, folder, model_fact("extractor", stage.extractor))
    torch.manual_seed(stage.seed)
    architecture = ArchitectureConfig(extractor=base.extractor.config, matcher=stage.architecture)
    matcher = Model.build(ArchitectureConfig(matcher=architecture.matcher)).matcher
    assert matcher is not None
    if stage.start:
        start_from(matcher, Model.load(stage.start), stage.start)
    else:
        matcher.init_from_descriptors()
    extractor = folded_extractor(base).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = SuperGlueLoss(
        extractor.requires_grad_(False),
        fewest=stage.fewest,
        most=stage.most,
        iterations=stage.sinkhorn_iterations,
        depths=stage.depths,
        bf16=stage.bf16_keypoints,
    )
    validation = make_validation(kept, stage.scenes.light, stage.validation, device)
    # A GPU finds keypoints faster than the processes that feed it.
    finder = load_artifact(stage.extractor) if device == "cpu" else None
    atlas = on_device(photos, device)
    samples = matcher_scenes(photos, stage.scenes, stage.seed, atlas, finder, stage.most)
    average = train(
        matcher.to(device),
        loss,
        samples,
        stage.loop,
        folder,
        minutes=minutes,
        report=report,
        validate=None if validation is None else validation.of_matcher(extractor),
        world=world,
    )
    facts = {"photographs": len(photos), **trained_on(device, world)}
    sources = (stage.extractor, stage.start)
    before = history(stage.extractor, "extractor") + history(stage.start, "matcher")
    model = Model(
        extractor=base.extractor,
        matcher=average,
        processing=stage.processing,
        provenance=provenance(before, "superglue", stage, folder, facts, sources),
    )
    return save_models(lambda net: replace(model, matcher=net), average, folder, world)


def _run_adapt(stage: AdaptStage, images: Any, folder: Path, **options: Any) -> dict[str, Path]:
    adapt(stage, images, folder, **options)
    return {"labels": label_file(folder)}


def _training(train_stage: Callable[..., Model]) -> Callable[..., dict[str, Path]]:
    """A function that trains, as one that says what was written."""

    def run(stage: Any, images: Any, folder: Path, **options: Any) -> dict[str, Path]:
        train_stage(stage, images, folder, **options)
        return _made(folder)

    return run


def _made(folder: Path) -> dict[str, Path]:
    """What a run has written, by kind."""
    best = {"best": folder / "best"} if (folder / BEST).exists() else {}  # or of a run before
    files = {
        "output": folder / "model",
        **best,
        "log": folder / LOG,
        "curves": folder / CURVES,
    }
    return {name: path for name, path in files.items() if path.exists()}


@dataclass(frozen=True)
class Stage:
    """A stage as the command line knows it.

    Attributes:
        config: the class of its configuration.
        run: configuration, photographs, folder, options → what was written, by kind.
        needs_images: whether it learns from photographs.
        labels: whether it writes labels instead of a model.
    """

    config: type[Any]
    run: Callable[..., dict[str, Path]]
    needs_images: bool = True
    labels: bool = False

    def kept_in(self, folder: Path) -> list[Path]:
        """The files of which one exists where there is a run to go on with."""
        return [label_file(folder)] if self.labels else [folder / LAST]


STAGES: dict[str, Stage] = {
    "shapes": Stage(ShapesStage, _training(train_shapes), needs_images=False),
    "adapt": Stage(AdaptStage, _run_adapt, labels=True),
    "superpoint": Stage(SuperPointStage, _training(train_superpoint)),
    "superglue": Stage(SuperGlueStage, _training(train_superglue)),
    "distill": Stage(DistillStage, _training(train_distill)),
}
