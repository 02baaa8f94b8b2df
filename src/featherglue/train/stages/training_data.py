"""The photographs that a stage learns from, those that it is judged by, and their keypoints."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featherglue.artifact.format import Artifact
from featherglue.config import to_dict
from featherglue.data.keypoint_labels import KeypointLabels, LabelledPhotoFolder, RankBy
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scene_view_pairs import MixedViewPairs, SceneViewPairs
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs
from featherglue.errors import ConfigError
from featherglue.train.batched.atlas import Atlas
from featherglue.train.batched.samples import BatchedScenes, BatchedViews
from featherglue.train.engine.loader import Batches, Samples
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.stages.extracted_scenes import ExtractedScenes
from featherglue.train.stages.validation import ValidationConfig


@dataclass(frozen=True, kw_only=True)
class LabelChoice:
    """Which labels of homographic adaptation are learned as keypoints.

    Attributes:
        file: of the stage `adapt`; "" learns the corners of the photographs.
        minimum: lowest rank of a label. by: what its rank is the product of: score,
            repeatability, matchability.
        certain: rank from which a label is learned in every sample, those between `minimum` and it
            the more often the higher they rank; 0 learns all alike.
    """

    file: str = ""
    minimum: float = 0.0
    by: tuple[RankBy, ...] = ("repeatability", "matchability")
    certain: float = 0.0

    def __post_init__(self) -> None:
        if not self.by:
            raise ConfigError(
                "labels: by names what ranks them, at least one of score, "
                "repeatability, matchability"
            )
        if not self.file and (self.minimum or self.certain):
            raise ConfigError("labels: minimum and certain are of the labels in a file; name it")
        if self.certain and not self.certain > self.minimum:
            raise ConfigError(
                f"certain must be 0 or above minimum = {self.minimum}, not {self.certain}"
            )


def label_fact(labels: LabelChoice) -> dict[str, dict[str, Any]]:
    """The labels by what their file holds, for `runs.keep_settings`."""
    if not labels.file:
        return {}
    digest = hashlib.sha256(Path(labels.file).read_bytes()).hexdigest()
    return {"labels": {**to_dict(labels), "file": digest}}


def read_photographs(
    images: str | os.PathLike[str], config: ValidationConfig, labels: LabelChoice | None = None
) -> tuple[PhotoFolder, PhotoFolder | None]:
    """Those to train on, and those for validation, if there is to be any.

    Raises:
        ImageError: no such folder, or no image in it.
        TrainingError: no usable photographs, too few for validation, labels of others.
    """
    if labels is not None and labels.file:
        read = KeypointLabels.load(labels.file)
        photos: PhotoFolder = LabelledPhotoFolder(
            images, read, labels.minimum, labels.by, labels.certain
        )
    else:
        photos = PhotoFolder(images)
    return photos.split(config.share) if config.share else (photos, None)


def check_views(
    spatial: float, scenes: SceneConfig, views: ViewPairConfig, loss: SuperPointLoss
) -> None:
    """Raise ConfigError unless an extractor can learn from such views by such a loss."""
    if not 0 <= spatial <= 1:
        raise ConfigError(f"spatial must lie in [0, 1], not {spatial}")
    if spatial and scenes.size != views.size:
        raise ConfigError("scenes and views must have the same size")
    if spatial and loss.descriptor == "hinge":
        raise ConfigError(
            "the hinge loss pairs cells by a homography, which views of 3D scenes do not have: "
            "set spatial = 0, or descriptor = 'dual_softmax'"
        )


def on_device(photos: PhotoFolder, device: str) -> Atlas | None:
    """The photographs on a GPU, which then makes the training data.

    None elsewhere, and with a warning where they would fill more than a quarter of its free memory:
    worker processes make the data then, other data of the same kind.
    """
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    wanted = Atlas.bytes_of(photos)
    if 4 * wanted < free:
        return Atlas(photos, device)
    warnings.warn(
        f"{photos.folder}: the photographs may take {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
        "of the GPU are free: worker processes make the training data, more slowly; smaller "
        f"photographs help, the longest side is {photos.longest} px",
        stacklevel=2,
    )
    return None


def extractor_views(
    photos: PhotoFolder,
    views: ViewPairConfig,
    scenes: SceneConfig,
    spatial: float,
    seed: int,
    atlas: Atlas | None = None,
) -> Samples | Batches:
    """Endless pairs of views for an extractor, a share `spatial` of them of 3D scenes.

    Those of photographs alone keep their homographies.

    Args:
        atlas: the photographs on the device that is to make the views.
    """
    if atlas is not None:
        return BatchedViews(atlas, views, scenes, spatial, seed)
    flat = ViewPairs(photos, views, seed)
    if spatial == 0:
        return flat
    return MixedViewPairs(flat, SceneViewPairs(photos, scenes, views, seed), spatial, seed)


def matcher_scenes(
    photos: PhotoFolder,
    scenes: SceneConfig,
    seed: int,
    atlas: Atlas | None,
    finder: Artifact | None,
    most: int,
) -> Samples | Batches:
    """Endless scenes for a matcher.

    Args:
        atlas: as in `extractor_views`.
        finder: whose extractor finds the `most` strongest keypoints where the scenes are made one
            by one; None leaves that to the loss.
    """
    if atlas is not None:
        return BatchedScenes(atlas, scenes, seed)
    made = Scenes(photos, scenes, seed)
    return made if finder is None else ExtractedScenes(made, finder, most)
