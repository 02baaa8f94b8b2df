"""Validation during training: matching on a fixed set of held-out views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.errors import ConfigError, EstimationError
from featherglue.geometry.estimation import estimate_homography
from featherglue.geometry.metrics import auc, detector_metrics, homography_match_metrics
from featherglue.geometry.projection import corner_error
from featherglue.matching.assignment import nearest_neighbors
from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.models.superglue import SuperGlue, mutual_matches, normalize_keypoints
from featherglue.models.superpoint import SuperPoint
from featherglue.train.losses.keypoint_pairs import Extracted, extract_keypoints

_SEED = 20_240_613
_THRESHOLDS = (5.0, 10.0, 25.0)
_NEAR = 3.0


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Settings of validation.

    Attributes:
        fraction: fraction of the photographs that are held out from training, in [0, 0.2]; 0
            disables validation.
        views: number of pairs of views.
        keypoints: maximum number of keypoints per image.
        threshold: minimum confidence of a match.

    Raises:
        ConfigError: a value is out of range.
    """

    fraction: float = 0.01
    views: int = 48
    keypoints: int = 256
    threshold: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 0.2:
            raise ConfigError(f"validation.fraction must be in [0, 0.2], not {self.fraction}")
        if self.views < 1 or self.keypoints < 1:
            raise ConfigError("validation.views and validation.keypoints must be at least 1")


def make_validation(
    held_out: PhotoFolder | None, photometric_strength: float, config: ValidationConfig, device: str
) -> Validation | None:
    """The validation on held-out photographs; None if there are none.

    Args:
        photometric_strength: strength of the photometric augmentation.
    """
    if held_out is None:
        return None
    return Validation(
        held_out, SceneConfig(photometric_strength=photometric_strength), config, device
    )


class Validation:
    """Measures networks on homographies of held-out photographs.

    Photographs, homographies and augmentation do not depend on the seed of the run.

    Args:
        photos: the held-out photographs.
        scenes: size and photometric augmentation of the views.
        config: settings of validation.
        device: device of the networks.
    """

    def __init__(
        self, photos: PhotoFolder, scenes: SceneConfig, config: ValidationConfig, device: str
    ) -> None:
        self.config, self.device, self.size = config, device, scenes.size
        planar = SceneConfig(
            size=scenes.size, planar=1.0, photometric_strength=scenes.photometric_strength
        )
        samples = Scenes(photos, planar, _SEED)
        self._samples = [samples[i] for i in range(config.views)]

    def of_extractor(self) -> Callable[[nn.Module], dict[str, float]]:
        """A function that measures an extractor with nearest-neighbor matching."""

        def measure(network: nn.Module) -> dict[str, float]:
            assert isinstance(network, SuperPoint)
            return self._summarize([(e, _nearest(e)) for e in self._extract(network)])

        return measure

    def of_matcher(self, extractor: SuperPoint) -> Callable[[nn.Module], dict[str, float]]:
        """A function that measures a matcher on the keypoints of a frozen extractor."""
        extracted = self._extract(extractor)

        def measure(network: nn.Module) -> dict[str, float]:
            assert isinstance(network, SuperGlue)
            return self._summarize([(e, self._match(network, e)) for e in extracted])

        return measure

    @torch.no_grad()
    def _extract(self, network: SuperPoint) -> list[Extracted]:
        found = []
        for sample in self._samples:
            images = torch.from_numpy(np.stack((sample["image0"], sample["image1"])))
            found.append(extract_keypoints(network, images.to(self.device), self.config.keypoints))
        return found

    @torch.no_grad()
    def _match(self, network: SuperGlue, extracted: Extracted) -> NDArray[np.int64]:
        keypoints, scores, descriptors, valid = extracted
        normalized = normalize_keypoints(keypoints, keypoints.new_tensor([self.size] * 2))
        views = [(normalized[[i]], scores[[i]], descriptors[[i]]) for i in range(2)]
        masks = valid[[0]], valid[[1]]
        matrix = network(*views[0], *views[1], mask0=masks[0], mask1=masks[1])
        assignment = log_optimal_transport(matrix.float(), network.bin_score, 20, *masks)
        matches = mutual_matches(assignment, self.config.threshold)[0][0].cpu().numpy()
        first = np.flatnonzero(matches >= 0)
        return np.stack((first, matches[first]), 1)

    def _summarize(self, pairs: list[tuple[Extracted, NDArray[np.int64]]]) -> dict[str, float]:
        rows: list[tuple[float, ...]] = []
        for (keypoints, _, _, valid), indices in pairs:
            H = np.asarray(self._samples[len(rows)]["maps"][0], np.float64)
            all0, all1 = (k[v].cpu().numpy() for k, v in zip(keypoints, valid, strict=True))
            points0, points1 = (keypoints[i].cpu().numpy()[indices[:, i]] for i in range(2))
            matched = homography_match_metrics(
                all0, all1, indices, points0, points1, H, self.size, self.size, _NEAR
            )
            found = detector_metrics(all0, all1, H, self.size, self.size, _NEAR)
            error = _homography_error(points0, points1, H, self.size)
            rows.append((error, matched.precision, matched.recall, found.repeatability))
        errors, precision, recall, repeatability = np.array(rows).T
        areas = auc(errors, _THRESHOLDS)
        return {
            "score": areas[1],
            **{f"auc{t:.0f}": area for t, area in zip(_THRESHOLDS, areas, strict=True)},
            "precision": float(precision.mean()),
            "recall": float(recall.mean()),
            "repeatability": float(repeatability.mean()),
        }


def _nearest(extracted: Extracted) -> NDArray[np.int64]:
    _, _, descriptors, valid = extracted
    first, second = (d[v].cpu().numpy() for d, v in zip(descriptors, valid, strict=True))
    if len(first) == 0 or len(second) == 0:
        return np.zeros((0, 2), np.int64)
    return nearest_neighbors(first, second)[0]


def _homography_error(
    points0: NDArray[np.float32],
    points1: NDArray[np.float32],
    truth: NDArray[np.float64],
    size: tuple[int, int],
) -> float:
    try:
        estimate = estimate_homography(
            points0, points1, local_optimization=False, max_false_alarms=None
        )
    except EstimationError:
        return float("inf")
    return corner_error(estimate.model, truth, size)
