"""Photographs, keypoint labels and samples of the training stages."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from featherglue.artifact.format import Artifact
from featherglue.config import to_dict
from featherglue.data.depth_maps import DepthMaps
from featherglue.data.feature_files import FeatureFile
from featherglue.data.keypoint_labels import KeypointLabels, RankBy
from featherglue.data.labeled_photographs import LabeledPhotoFolder
from featherglue.data.match_files import MatchFile
from featherglue.data.matched_pairs import MatchedPairs
from featherglue.data.multiview import ModelPairs, read_models
from featherglue.data.photographs import PhotoFolder
from featherglue.data.real_pairs import RealPairConfig, RealPairs
from featherglue.data.real_scenes import MixedScenes, RealScenes
from featherglue.data.scene_view_pairs import MixedViewPairs, SceneViewPairs
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.data.view_pairs import (
    MultiSizeViews,
    ViewPairConfig,
    ViewPairs,
    config_by_size,
)
from featherglue.errors import ConfigError, TrainingError
from featherglue.fingerprint import file_fingerprint, fingerprint
from featherglue.train.batched.atlas import Atlas
from featherglue.train.batched.scene_batches import BatchedScenes
from featherglue.train.batched.view_batches import BatchedViews
from featherglue.train.engine.loader import Batches, Samples
from featherglue.train.losses.superpoint_loss import HINGE_NEEDS_HOMOGRAPHIES, SuperPointLoss
from featherglue.train.stages.extracted_scenes import ExtractedScenes

_MODEL_FILES = ("cameras", "images", "points3D")


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Keypoint labels to learn.

    Attributes:
        file: labels from the stage "adapt"; "" learns the corners of the photographs.
        minimum: minimum rank of a label.
        by: factors of the rank, from "score", "repeatability" and "matchability".
        certain: rank from which a label is learned in every sample. Labels between `minimum` and
            `certain` are learned more often the higher their rank. 0 learns all labels equally.

    Raises:
        ConfigError: no criterion is named, or `minimum` and `certain` do not fit.
    """

    file: str = ""
    minimum: float = 0.0
    by: tuple[RankBy, ...] = ("repeatability", "matchability")
    certain: float = 0.0

    def __post_init__(self) -> None:
        if not self.by:
            raise ConfigError(
                "labels.by must name at least one of score, repeatability, matchability"
            )
        if not self.file and (self.minimum or self.certain):
            raise ConfigError("labels.minimum and labels.certain require labels.file")
        if self.certain and not self.certain > self.minimum:
            raise ConfigError(
                f"labels.certain must be 0 or above labels.minimum = {self.minimum}, "
                f"not {self.certain}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingPhotographs:
    """The photographs of a run.

    Attributes:
        training: photographs to train on.
        held_out: photographs for validation; None if there is no validation.
    """

    training: PhotoFolder
    held_out: PhotoFolder | None


def default_spatial_views() -> SceneConfig:
    """The default 3D scenes of an extractor's training."""
    return SceneConfig(size=(176, 176), max_planes=4, detail=(0.5, 1.3))


def label_fingerprint(labels: LabelsConfig | None) -> dict[str, dict[str, Any]]:
    """The labels as an input of a run, with the hash of their file instead of its name."""
    if labels is None or not labels.file:
        return {}
    return {"labels": {**to_dict(labels), "file": file_fingerprint(labels.file)}}


def pair_fingerprint(pairs: RealPairConfig | None) -> dict[str, dict[str, Any]]:
    """The real pairs as an input of a run, with the hashes of their files instead of the names.

    Raises:
        TrainingError: a file cannot be read.
    """
    if pairs is None:
        return {}
    try:
        hashes = {
            name: file_fingerprint(getattr(pairs, name))
            for name in ("features", "matches")
            if getattr(pairs, name)
        }
        if pairs.models:
            hashes |= model_folder_fingerprints(pairs.models, pairs.depths)
    except OSError as error:
        raise TrainingError(
            f"{error.filename}: cannot be read ({error.strerror or error})"
        ) from None
    return {"pairs": {**to_dict(pairs), **hashes}}


def model_folder_fingerprints(models: str, depths: str) -> dict[str, str]:
    """Hashes of the COLMAP models and the depth maps in their folders; `depths` may be "".

    Raises:
        OSError: a file cannot be read.
    """
    listed = {"models": [p for name in _MODEL_FILES for p in Path(models).rglob(f"{name}.*")]}
    if depths:
        listed["depths"] = list(Path(depths).rglob("*.npz"))
    return {
        kind: fingerprint([file_fingerprint(path) for path in sorted(paths) if path.is_file()])
        for kind, paths in listed.items()
    }


def read_photographs(
    images: str | os.PathLike[str], fraction: float, labels: LabelsConfig | None = None
) -> TrainingPhotographs:
    """Read a folder of photographs, and hold out a fraction of them for validation.

    Args:
        fraction: fraction of the photographs for validation, in [0, 1); 0 holds out none.

    Raises:
        ImageError: the folder is missing or has no images.
        TrainingError: no usable photographs, too few for validation, or labels of other
            photographs.
    """
    if labels is not None and labels.file:
        loaded = KeypointLabels.load(labels.file)
        photos: PhotoFolder = LabeledPhotoFolder(
            images, loaded, labels.minimum, labels.by, labels.certain
        )
    else:
        photos = PhotoFolder(images)
    training, held_out = photos.split(fraction) if fraction else (photos, None)
    return TrainingPhotographs(training=training, held_out=held_out)


def check_views(
    spatial: float, scenes: SceneConfig, views: ViewPairConfig, loss: SuperPointLoss
) -> None:
    """Raise ConfigError unless the settings of an extractor's training data fit together."""
    if not 0 <= spatial <= 1:
        raise ConfigError(f"spatial must be in [0, 1], not {spatial}")
    if spatial and scenes.size != views.size:
        raise ConfigError("the 3D scenes and the views must have the same size")
    if scenes.appearance:
        raise ConfigError("appearance applies to the scenes of a matcher; use 0 for an extractor")
    if spatial and loss.descriptor == "hinge":
        raise ConfigError(HINGE_NEEDS_HOMOGRAPHIES)


def photographs_on_device(photos: PhotoFolder, device: str) -> Atlas | None:
    """Load the photographs into GPU memory, so that the GPU makes the training data.

    Returns:
        None on a CPU; also None, with a warning, if the photographs need more than a quarter of
        the free GPU memory. Worker processes then make training data of the same distribution.
    """
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    required = Atlas.bytes_of(photos)
    if 4 * required < free:
        return Atlas(photos, device)
    warnings.warn(
        f"{photos.folder}: the photographs need up to {required / 1e9:.1f} GB, and "
        f"{free / 1e9:.1f} GB of GPU memory are free: worker processes make the training data, "
        "which is slower; use smaller photographs, the longest side is now "
        f"{photos.longest} px",
        stacklevel=2,
    )
    return None


def made_on_cpu(views: ViewPairConfig) -> bool:
    """Whether views are made on the CPU even with a GPU, which lacks some of their changes."""
    return bool(views.appearance or views.foreground or views.other_sizes)


def extractor_views(
    photos: PhotoFolder,
    views: ViewPairConfig,
    scenes: SceneConfig,
    spatial: float,
    seed: int,
    atlas: Atlas | None,
    batch_size: int,
) -> Samples | Batches:
    """Endless pairs of views for an extractor.

    Args:
        views: pairs of views of photographs. They have homographies only if `spatial` is 0.
        scenes: 3D scenes.
        spatial: fraction of the pairs that show 3D scenes, in [0, 1].
        atlas: photographs on the device that makes the views, see `made_on_cpu`; None makes them on
            the CPU.
        batch_size: number of samples that have one size.
    """
    if atlas is not None and not made_on_cpu(views):
        return BatchedViews(atlas, views, scenes, spatial, seed)

    def of_size(config: ViewPairConfig) -> ViewPairs | MixedViewPairs:
        flat = ViewPairs(photos, config, seed)
        if spatial == 0:
            return flat
        sized = replace(scenes, size=config.size)
        return MixedViewPairs(flat, SceneViewPairs(photos, sized, config, seed), spatial, seed)

    sources = [of_size(config) for config in config_by_size(views)]
    return sources[0] if len(sources) == 1 else MultiSizeViews(sources, batch_size, seed)


def matcher_scenes(
    photos: PhotoFolder,
    scenes: SceneConfig,
    seed: int,
    atlas: Atlas | None,
    finder: Artifact | None,
    max_keypoints: int,
    pairs: RealPairConfig | None = None,
    keep_images: bool = False,
) -> Samples | Batches:
    """Endless scenes for a matcher.

    Args:
        atlas: photographs on the device that makes the scenes; None makes them on the CPU, as do
            scenes with `appearance` or `pairs`.
        finder: artifact whose extractor finds the keypoints of scenes made on the CPU; None leaves
            this to the loss.
        max_keypoints: number of keypoints per image that `finder` returns, including padding.
        pairs: real pairs that are mixed with the scenes; None for none.
        keep_images: whether scenes with keypoints have their images, too.

    Raises:
        MissingExtraError: a package that reads the pairs is not installed.
        ImageError: the folder of COLMAP models does not exist.
        TrainingError: the pairs cannot be read, or do not fit the photographs.
    """
    # The GPU lacks `augment_appearance` and the warps of real pairs.
    if atlas is not None and not scenes.appearance and pairs is None:
        return BatchedScenes(atlas, scenes, seed)
    procedural = Scenes(photos, scenes, seed)
    made: Scenes | MixedScenes = procedural
    if pairs is not None:
        real = RealScenes(photos, real_pairs(photos, pairs), scenes, pairs, seed)
        made = MixedScenes(procedural, real, pairs.fraction, seed)
    if finder is None:
        return made
    return ExtractedScenes(made, finder, max_keypoints, keep_images)


def real_pairs(photos: PhotoFolder, config: RealPairConfig) -> RealPairs:
    """The pairs of real photographs that `config` names. Raises as `matcher_scenes`."""
    if config.models:
        depths = DepthMaps(config.depths, photos) if config.depths else None
        return ModelPairs(read_models(config.models, photos), depths)
    return MatchedPairs(
        photos, FeatureFile(config.features), MatchFile(config.matches, photos.names)
    )
