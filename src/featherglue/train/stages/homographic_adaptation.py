"""Homographic adaptation (DeTone 2018, section 5): the keypoints of warped views of a photograph.

Each label also gets the number of views that show it, detect it and match its descriptor. Other
photographs of the same scene may be such views, too.

Shape legend: V views, N labels, H×W pixels, D descriptor dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherglue.data.detector_labels import CELL, points_inside
from featherglue.data.homography import (
    HomographyRange,
    Matrix,
    sample_homography,
    warp_image,
    warp_points,
)
from featherglue.data.keypoint_labels import PhotoLabels
from featherglue.data.photometric import augment_photometric
from featherglue.data.real_pairs import Transfer
from featherglue.errors import ConfigError
from featherglue.io.gray import Gray
from featherglue.io.image import map_points, resize_gray, resized_size
from featherglue.models.keypoints import find_keypoints, sample_descriptors, subpixel_offsets
from featherglue.options import Sampling

# (B, 1, H, W) float32 in [0, 1] -> scores (B, H, W) in [0, 1] and descriptors (B, D, H/8, W/8).
Extract = Callable[[Tensor], tuple[Tensor, Tensor]]
Float = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Settings of homographic adaptation.

    Attributes:
        homographies: number of views of a photograph; the first one is the photograph itself.
        views: range of the homographies of the other views.
        photometric_strength: strength of their photometric augmentation.
        longest: photographs are shrunk to this longest side in pixels.
        border: width in pixels of the border of a view whose scores are ignored.
        nms_radius: radius of non-maximum suppression of labels in pixels.
        threshold: minimum mean score of a label. The maps are spread to neighboring pixels first,
            which leaves a peak one pixel wide unchanged and raises wider peaks up to four times.
        detection: minimum score of a detection in a view.
        max_labels: maximum number of labels of a photograph.
        near: maximum distance in pixels between a detection in a view and the label.
        sampling: sampling of descriptors, see `ProcessingConfig.descriptor_sampling`.
        batch_size: number of views in one forward pass.
        real_views: maximum number of other photographs of the scene that are views of a photograph,
            if there are COLMAP models and depth maps.
    """

    homographies: int = 40
    views: HomographyRange = field(
        default_factory=lambda: HomographyRange(
            rotation=45, scale=1.5, anisotropy=1.3, perspective=0.25, translation=0.1
        )
    )
    photometric_strength: float = 0.0
    longest: int = 320
    border: int = 3
    nms_radius: int = 4
    threshold: float = 0.03
    detection: float = 0.015
    max_labels: int = 300
    near: float = 3.0
    sampling: Sampling = "exact"
    batch_size: int = 10
    real_views: int = 8

    def __post_init__(self) -> None:
        for name in ("homographies", "max_labels", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.homographies > np.iinfo(np.uint16).max:
            raise ConfigError(f"homographies must be at most 65535, not {self.homographies}")
        if self.longest < CELL:
            raise ConfigError(f"longest must be at least {CELL} px, not {self.longest}")
        for name in (
            "photometric_strength",
            "border",
            "nms_radius",
            "threshold",
            "detection",
            "near",
            "real_views",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class RealView:
    """Another photograph of the same scene.

    Attributes:
        photo: (H, W) uint8.
        transfer: where points of the labeled photograph are in it.
    """

    photo: Gray
    transfer: Transfer


def label_photograph(
    extract: Extract,
    photo: Gray,
    config: LabelConfig,
    rng: np.random.Generator,
    device: str = "cpu",
    real_views: Sequence[RealView] = (),
) -> PhotoLabels:
    """Label the keypoints of a photograph.

    Warped views find the labels. Warped and real views together give their repeatability and
    matchability.

    Args:
        extract: the network, on `device`.
        photo: (H, W) uint8.
        config: settings.
        rng: random generator of the views and their augmentation.
        device: device of the network.
        real_views: other photographs of the scene.
    """
    height, width = photo.shape
    size = working_size((width, height), config.longest)
    small = resize_gray(photo, size)
    to_views = draw_homographies(rng, size, config)
    images = [
        augment_photometric(rng, warp_image(small, H, size), config.photometric_strength)
        for H in to_views[1:]
    ]
    scores, descriptors = _run(extract, np.stack([small, *images]), config.batch_size, device)
    covers = [_cover(H, size, config.border) for H in to_views]
    mean = aggregate(scores, covers, to_views)
    maps = torch.from_numpy(mean)[None]
    peaks, values, valid = find_keypoints(
        maps, config.max_labels, config.nms_radius, config.border, config.threshold
    )
    exact = (peaks + subpixel_offsets(maps, peaks))[valid].numpy()
    projected = np.stack([warp_points(exact, H) for H in to_views])  # (V, N, 2)
    seen = np.stack([_look_up(c, p) for c, p in zip(covers, projected, strict=True)])
    detected = [_near_detections(view, config) for view in scores]
    found = np.stack([_look_up(d, p) for d, p in zip(detected, projected, strict=True)])
    reference = _sampled(descriptors[:1], exact, config.sampling)
    matched = np.stack(
        [
            _matched(_sampled(d[None], p, config.sampling), reference, s)
            for d, p, s in zip(descriptors, projected, seen, strict=True)
        ]
    )
    points = map_points(exact, size, (width, height))
    counts = np.stack([seen[1:], (found & seen)[1:], (matched & seen)[1:]]).sum(1)
    for view in real_views:
        counts += _counts_in(extract, view, points, reference, config, device)
    covered, found_count, matched_count = counts.astype(np.uint16)
    return PhotoLabels(
        size=(width, height),
        points=points,
        scores=values[valid].numpy(),
        covered=covered,
        found=found_count,
        matched=matched_count,
    )


def _counts_in(
    extract: Extract,
    view: RealView,
    points: Float,
    reference: Tensor,
    config: LabelConfig,
    device: str,
) -> NDArray[np.int64]:
    """Whether a real view shows, detects and matches each label, (3, N) of 0 and 1.

    Args:
        points: (N, 2) xy, pixels of the labeled photograph.
        reference: (N, D), the descriptors of the labels there.
    """
    height, width = view.photo.shape
    size = working_size((width, height), config.longest)
    scores, descriptors = _run(extract, resize_gray(view.photo, size)[None], 1, device)
    there = view.transfer(points)
    there = np.where(np.isfinite(there), map_points(there, (width, height), size), np.nan)
    seen = points_inside(there, size, config.border)
    found = _look_up(_near_detections(scores[0], config), there)
    matched = _matched(_sampled(descriptors, there, config.sampling), reference, seen)
    return np.stack([seen, found & seen, matched & seen]).astype(np.int64)


def working_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) at which a photograph is labeled, rounded to multiples of 8."""
    small = resized_size(size, (longest,)) if max(size) > longest else size
    return max(CELL, round(small[0] / CELL) * CELL), max(CELL, round(small[1] / CELL) * CELL)


def draw_homographies(
    rng: np.random.Generator, size: tuple[int, int], config: LabelConfig
) -> list[Matrix]:
    """The identity and random homographies from photograph to view, without a horizon.

    Raises:
        ConfigError: the range is so wide that hardly any homography is usable.
    """
    drawn = [np.eye(3)]
    corners = np.array([(x, y, 1) for x in (0, size[0] - 1) for y in (0, size[1] - 1)])
    for _ in range(100 * config.homographies):
        if len(drawn) == config.homographies:
            return drawn
        H = sample_homography(rng, size, config.views)
        if (corners @ H[2]).min() > 0.2:
            drawn.append(H)
    if len(drawn) < config.homographies:
        raise ConfigError("labels.views: the range of homographies is too wide; reduce it")
    return drawn


def aggregate(scores: Float, covers: list[Gray], to_views: list[Matrix]) -> Float:
    """The mean of the score maps of the views, warped back to the photograph.

    Each map is first spread to the neighboring pixels, which keeps the height of a maximum. A
    score that is one pixel wide could otherwise fall between the pixels of the photograph.

    Args:
        scores: (V, H, W) float32 in [0, 1].
        covers: V masks (H, W) uint8, 1 for the usable pixels of a view.
        to_views: V homographies, photograph to view.

    Returns:
        (H, W) float32, the mean over the views that cover a pixel; 0 without such a view.
    """
    height, width = scores.shape[1:]
    total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    kernel = np.array([0.5, 1.0, 0.5], np.float32)
    back = cv2.WARP_INVERSE_MAP
    for score, cover, H in zip(scores, covers, to_views, strict=True):
        spread = cv2.sepFilter2D(score, -1, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
        warped = cv2.warpPerspective(spread, H, (width, height), flags=cv2.INTER_LINEAR | back)
        seen = cv2.warpPerspective(cover, H, (width, height), flags=cv2.INTER_NEAREST | back)
        cv2.accumulate(warped, total, mask=seen)
        cv2.accumulate(seen, count)
    return np.asarray(total / np.maximum(count, 1), np.float32)


def _run(extract: Extract, images: Gray, batch_size: int, device: str) -> tuple[Float, Tensor]:
    """Score maps (V, H, W) on the CPU, and descriptors (V, D, H/8, W/8) on the device."""
    scores, descriptors = [], []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size])[:, None].to(device)
        found, dense = extract(batch.float() / 255)
        scores.append(found.float().cpu().numpy())
        descriptors.append(dense.float())
    return np.concatenate(scores), torch.cat(descriptors)


def _cover(homography: Matrix, size: tuple[int, int], border: int) -> Gray:
    """(H, W), 1 if a view shows the photograph, at least `border` px from the edges of both."""
    whole = np.ones((size[1], size[0]), np.uint8)
    cover = cv2.warpPerspective(whole, homography, size, flags=cv2.INTER_NEAREST)
    square = np.ones((2 * border + 1, 2 * border + 1), np.uint8)
    eroded = cv2.erode(cover, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(eroded, np.uint8)


def _look_up(mask: Gray, points: NDArray[np.floating]) -> Mask:
    """(N,), whether a mask (H, W) is set at the nearest pixel of each point (N, 2)."""
    within = points_inside(points, (mask.shape[1], mask.shape[0]))
    x, y = np.rint(np.where(within[:, None], points, 0)).astype(np.int64).T
    return np.asarray(within & (mask[y, x] > 0))


def _near_detections(scores: Float, config: LabelConfig) -> Gray:
    """(H, W), nonzero within `near` px of a detection in a score map (H, W)."""
    side = 2 * config.nms_radius + 1
    highest = np.asarray(cv2.dilate(scores, np.ones((side, side), np.uint8)))
    peaks = ((scores == highest) & (scores > config.detection)).astype(np.uint8)
    reach = np.arange(-int(config.near), int(config.near) + 1)
    disc = reach[:, None] ** 2 + reach**2 <= config.near**2
    return np.asarray(cv2.dilate(peaks, disc.astype(np.uint8)), np.uint8)


def _sampled(descriptors: Tensor, points: NDArray[np.floating], sampling: Sampling) -> Tensor:
    """The descriptors (N, D) of a view (1, D, H/8, W/8) at points (N, 2); undefined at NaN."""
    where = torch.from_numpy(np.nan_to_num(points)[None]).to(descriptors)
    return sample_descriptors(descriptors, where, sampling)[0]


def _matched(sampled: Tensor, reference: Tensor, seen: Mask) -> Mask:
    """(N,), whether the descriptor of a label in a view is nearest to its own in the photograph.

    Only labels that the view shows are compared.

    Args:
        sampled, reference: (N, D), descriptors in the view and in the photograph.
        seen: (N,).
    """
    if not seen.any():
        return np.zeros(seen.shape, np.bool_)
    cosine = sampled @ reference.T
    cosine.masked_fill_(~torch.from_numpy(seen).to(cosine.device)[None], -2.0)
    own = torch.arange(cosine.shape[1], device=cosine.device)
    return np.asarray((cosine.argmax(1) == own).cpu().numpy())
