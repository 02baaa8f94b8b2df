"""Calibration data: views of photographs, their features, and recorded activations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featherglue.data.homography import HomographyRange, sample_homography, warp_image
from featherglue.data.photometric import augment_photometric
from featherglue.errors import UsageError
from featherglue.io.gray import Gray
from featherglue.io.image import resize_gray
from featherglue.models.hooks import with_hooks
from featherglue.models.keypoints import find_keypoints, sample_descriptors, subpixel_offsets
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue, normalize_keypoints
from featherglue.models.superpoint import SuperPoint, score_map

# Normalized keypoints (B, N, 2), scores (B, N) and descriptors (B, N, D).
FeatureBatch = tuple[Tensor, Tensor, Tensor]
_DEFAULT_MAX_KEYPOINTS = 512
_MIN_KEYPOINTS = 16
_NUM_SAMPLES = 400_000


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationData:
    """Inputs on which networks are calibrated.

    Attributes:
        images: tensors (1, 1, H, W) float32 in [0, 1], all of one size. The second half shows
            other views of the first half.
        features: features of view 0 and of view 1, for a matcher. Entry i of both is pair i.
    """

    images: tuple[Tensor, ...]
    features: tuple[FeatureBatch, FeatureBatch] | None = None

    def pairs(self) -> Iterator[list[Tensor]]:
        """Yield the six arguments of a matcher for each pair, with batch size 1."""
        if self.features is not None:
            for i in range(len(self.features[0][0])):
                yield [part[i : i + 1] for view in self.features for part in view]


def prepare_calibration(
    model: Model, images: Sequence[Gray], size: tuple[int, int] = (640, 480), seed: int = 0
) -> CalibrationData:
    """Return pairs of views of photographs, with the features that the model extracts from them.

    Args:
        model: its extractor provides the features for its matcher.
        images: photographs, (H, W) uint8.
        size: (width, height) of the views in pixels, multiples of 8.
        seed: seed of the homographies and of the photometric augmentation.

    Raises:
        UsageError: there are no images, or no keypoints are found in them.
    """
    if not images:
        raise UsageError("calibration requires at least one image")
    rng = np.random.default_rng(seed)
    views: list[list[Gray]] = [[], []]
    for image in images:
        photo = resize_gray(image, size)
        views[0].append(photo)
        views[1].append(random_view(rng, photo)[1])
    tensors = tuple(
        torch.from_numpy(np.ascontiguousarray(view))[None, None].float() / 255
        for view in (*views[0], *views[1])
    )
    if model.matcher is None or model.extractor is None:
        return CalibrationData(images=tensors)
    return CalibrationData(images=tensors, features=_extract(model, tensors, size))


def random_view(rng: np.random.Generator, photo: Gray) -> tuple[NDArray[np.float64], Gray]:
    """Return a random homography (3, 3), and the warped and augmented photograph (H, W)."""
    size = (photo.shape[1], photo.shape[0])
    homography = sample_homography(rng, size, HomographyRange())
    return homography, augment_photometric(rng, warp_image(photo, homography, size), 0.5)


@torch.no_grad()
def _extract(
    model: Model, images: Sequence[Tensor], size: tuple[int, int]
) -> tuple[FeatureBatch, FeatureBatch]:
    """Extract the same number of keypoints from all views: padding would distort statistics."""
    assert model.extractor is not None
    settings = model.processing
    limit = settings.max_keypoints if settings.max_keypoints > 0 else _DEFAULT_MAX_KEYPOINTS
    counts: list[int] = []
    found: list[FeatureBatch] = []
    for image in images:
        logits, dense = model.extractor.forward_raw(image)
        heat = score_map(logits)
        points, scores, valid = find_keypoints(
            heat, limit, settings.nms_radius, settings.remove_borders, settings.keypoint_threshold
        )
        if settings.subpixel:
            points = points + subpixel_offsets(heat, points)
        sampled = sample_descriptors(
            F.normalize(dense, dim=1), points, settings.descriptor_sampling
        )
        normalized = normalize_keypoints(points, points.new_tensor([size]))
        counts.append(settings.num_kept(scores[valid].numpy()))
        found.append((normalized, scores, sampled))
    half = len(found) // 2
    smaller = [min(pair) for pair in zip(counts[:half], counts[half:], strict=True)]
    kept = [i for i, count in enumerate(smaller) if count >= _MIN_KEYPOINTS]
    if not kept:
        raise UsageError("no keypoints are found in the calibration images; use other images")
    count = min(smaller[i] for i in kept)

    def batch(first: int) -> FeatureBatch:
        views = [found[i + first] for i in kept]
        points, scores, descriptors = (
            torch.cat([view[part][:, :count] for view in views]) for part in range(3)
        )
        return points, scores, descriptors

    return batch(0), batch(half)


@dataclass
class ActivationSamples:
    """Recorded values of one activation.

    Attributes:
        low: smallest value.
        high: largest value.
        parts: samples of the values, one array for each call.
    """

    low: float = float("inf")
    high: float = float("-inf")
    parts: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def values(self) -> NDArray[np.float32]:
        """All samples, (N,)."""
        return np.concatenate(self.parts)


class ActivationRecorder:
    """A hook that records activations.

    Args:
        num_calls: expected number of calls for each activation. All contribute equally many
            samples.
    """

    def __init__(self, num_calls: int) -> None:
        self.recorded: dict[str, ActivationSamples] = {}
        self._samples_per_call = max(256, _NUM_SAMPLES // max(1, num_calls))

    def __call__(self, name: str, value: Tensor) -> Tensor:
        samples = self.recorded.setdefault(name, ActivationSamples())
        flat = value.detach().float().reshape(-1)
        samples.low = min(samples.low, float(flat.min()))
        samples.high = max(samples.high, float(flat.max()))
        # An odd step visits all channels.
        step = max(1, flat.numel() // self._samples_per_call) | 1
        samples.parts.append(flat[::step].numpy().copy())
        return value


@torch.no_grad()
def record_activations(
    model: Model, calibration: CalibrationData, names: Collection[str]
) -> dict[str, ActivationSamples]:
    """Run the networks on calibration data and record the named activations."""
    recorded: dict[str, ActivationSamples] = {}
    if model.extractor is not None:
        recorder = ActivationRecorder(len(calibration.images))
        run_extractor(with_hooks(model.extractor, recorder, names), calibration)
        recorded |= recorder.recorded
    if model.matcher is not None and calibration.features is not None:
        recorder = ActivationRecorder(2 * len(calibration.features[0][0]))
        run_matcher(with_hooks(model.matcher, recorder, names), calibration)
        recorded |= recorder.recorded
    return recorded


def run_extractor(network: SuperPoint, calibration: CalibrationData) -> None:
    """Run an extractor on every image, one at a time."""
    for image in calibration.images:
        network.forward_raw(image)


def run_matcher(network: SuperGlue, calibration: CalibrationData) -> None:
    """Run a matcher on every pair, one at a time."""
    for pair in calibration.pairs():
        network(*pair)
