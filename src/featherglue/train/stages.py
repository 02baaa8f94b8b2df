"""The stages of training, each from one configuration to a model.

A stage reads a TOML file whose tables are the dataclasses below; every key has a default, unknown
ones are refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from featherglue.config import (
    ArchitectureConfig,
    ProcessingConfig,
    SuperGlueConfig,
    SuperPointConfig,
    from_dict,
)
from featherglue.data.images import PhotoFolder
from featherglue.data.labels import LabelledFolder, Labels, Rank
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.data.spatial import Mixture, SpatialViews
from featherglue.data.views import ViewConfig, ViewPairs
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.pair import Model
from featherglue.train.adapt import AdaptStage, adapt, label_file
from featherglue.train.checkpoint import LAST, LOG
from featherglue.train.loop import LoopConfig, Report, train
from featherglue.train.parallel import join_world
from featherglue.train.runs import (
    folded_extractor,
    keep_settings,
    provenance,
    save_models,
    start_from,
)
from featherglue.train.shapes import ShapesStage, train_shapes
from featherglue.train.superglue import SuperGlueLoss
from featherglue.train.superpoint import SuperPointLoss
from featherglue.train.validation import Validation, ValidationConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LabelChoice:
    """Which labels of homographic adaptation are learned as keypoints.

    Attributes:
        file: of the stage `adapt`; "" learns the corners of the photographs.
        minimum: lowest rank of a label. by: what its rank is the product of: score,
            repeatability, matchability.
    """

    file: str = ""
    minimum: float = 0.0
    by: tuple[Rank, ...] = ("repeatability", "matchability")


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
    views: ViewConfig = field(default_factory=ViewConfig)
    scenes: SceneConfig = field(
        default_factory=lambda: SceneConfig(size=(176, 176), planes=4, detail=(0.5, 1.3))
    )
    spatial: float = 0.0
    labels: LabelChoice = field(default_factory=LabelChoice)
    loss: SuperPointLoss = field(default_factory=SuperPointLoss)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    start: str = ""
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.spatial <= 1:
            raise ConfigError(f"spatial must lie in [0, 1], not {self.spatial}")
        if self.spatial and self.scenes.size != self.views.size:
            raise ConfigError("scenes and views must have the same size")


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
        layers = len(self.architecture.layers)
        if list(self.depths) != sorted({d for d in self.depths if 0 < d < layers}):
            raise ConfigError(f"depths are rising numbers of layers below {layers}")


def read_stage(cls: type[T], path: str | os.PathLike[str]) -> T:
    """A stage's configuration from a TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown or missing key.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML ({error})") from None
    return from_dict(cls, values, str(path))


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
    world, device = join_world(device)
    photos, kept = _photographs(images, stage.validation, stage.labels)
    keep_settings(stage, folder)
    torch.manual_seed(stage.seed)
    model = Model.build(ArchitectureConfig(extractor=stage.architecture))
    assert model.extractor is not None
    if stage.start:
        start_from(model.extractor, Model.load(stage.start), stage.start)
    network = model.extractor.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = ViewPairs(photos, stage.views, stage.seed)
    spatial = SpatialViews(photos, stage.scenes, stage.views, stage.seed)
    validation = _validation(kept, stage.views.light, stage.validation, device)
    average = train(
        network,
        stage.loss,
        Mixture(views, spatial, stage.spatial, stage.seed),
        stage.loop,
        folder,
        minutes=minutes,
        report=report,
        validate=None if validation is None else validation.of_extractor(),
        world=world,
    )
    facts = {"photographs": len(photos)}
    made = provenance((), "superpoint", stage, folder, facts)
    trained = replace(model, extractor=average, provenance=made)
    save_models(trained, average, folder, world)
    return trained


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
    world, device = join_world(device)
    base = Model.load(stage.extractor)
    if base.extractor is None:
        raise TrainingError(f"{stage.extractor}: a model without an extractor")
    photos, kept = _photographs(images, stage.validation)
    keep_settings(stage, folder)
    torch.manual_seed(stage.seed)
    architecture = ArchitectureConfig(extractor=base.extractor.config, matcher=stage.architecture)
    matcher = Model.build(ArchitectureConfig(matcher=architecture.matcher)).matcher
    assert matcher is not None
    if stage.start:
        start_from(matcher, Model.load(stage.start), stage.start)
    else:
        matcher.start_from_descriptors()
    extractor = folded_extractor(base).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = SuperGlueLoss(
        extractor.requires_grad_(False),
        fewest=stage.fewest,
        most=stage.most,
        iterations=stage.sinkhorn_iterations,
        depths=stage.depths,
        bf16=stage.bf16_keypoints,
    )
    validation = _validation(kept, stage.scenes.light, stage.validation, device)
    average = train(
        matcher.to(device),
        loss,
        Scenes(photos, stage.scenes, stage.seed),
        stage.loop,
        folder,
        minutes=minutes,
        report=report,
        validate=None if validation is None else validation.of_matcher(extractor),
        world=world,
    )
    facts = {"photographs": len(photos)}
    trained = Model(
        extractor=base.extractor,
        matcher=average,
        processing=stage.processing,
        provenance=provenance(base.provenance.recipe, "superglue", stage, folder, facts),
    )
    save_models(trained, average, folder, world)
    return trained


def _photographs(
    images: str | os.PathLike[str], config: ValidationConfig, labels: LabelChoice | None = None
) -> tuple[PhotoFolder, PhotoFolder | None]:
    """Those to train on, and those for validation, if there is to be any."""
    if labels is not None and labels.file:
        read = Labels.load(labels.file)
        photos: PhotoFolder = LabelledFolder(images, read, labels.minimum, labels.by)
    else:
        photos = PhotoFolder(images)
    return photos.split(config.share) if config.share else (photos, None)


def _validation(
    kept: PhotoFolder | None, light: float, config: ValidationConfig, device: str
) -> Validation | None:
    return None if kept is None else Validation(kept, SceneConfig(light=light), config, device)


def _run_shapes(stage: ShapesStage, images: Any, folder: Path, **options: Any) -> dict[str, Path]:
    train_shapes(stage, images, folder, **options)
    return _made(folder)


def _run_adapt(stage: AdaptStage, images: Any, folder: Path, **options: Any) -> dict[str, Path]:
    adapt(stage, images, folder, **options)
    return {"labels": label_file(folder)}


def _run_superpoint(
    stage: SuperPointStage, images: Any, folder: Path, **options: Any
) -> dict[str, Path]:
    train_superpoint(stage, images, folder, **options)
    return _made(folder)


def _run_superglue(
    stage: SuperGlueStage, images: Any, folder: Path, **options: Any
) -> dict[str, Path]:
    train_superglue(stage, images, folder, **options)
    return _made(folder)


def _made(folder: Path) -> dict[str, Path]:
    """What a run has written, by kind."""
    files = {"output": folder / "model", "best": folder / "best", "log": folder / LOG}
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
    "shapes": Stage(ShapesStage, _run_shapes, needs_images=False),
    "adapt": Stage(AdaptStage, _run_adapt, labels=True),
    "superpoint": Stage(SuperPointStage, _run_superpoint),
    "superglue": Stage(SuperGlueStage, _run_superglue),
}
