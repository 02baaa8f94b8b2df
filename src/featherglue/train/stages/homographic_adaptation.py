"""Homographic adaptation (DeTone 2018, section 5): keypoints that a detector finds again and again
in warped views of a photograph, and how well each is found again and told apart.

Shape legend: V views, N labels, H×W pixels, D descriptor width.
"""

from __future__ import annotations

from collections.abc import Callable
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
from featherglue.errors import ConfigError
from featherglue.io.image import map_points, resize_grey, resized_size
from featherglue.models.keypoints import find_keypoints, sample_descriptors, subpixel_offsets
from featherglue.options import Sampling

# (B, 1, H, W) float32 in [0, 1] -> scores (B, H, W) in [0, 1] and descriptors (B, D, H/8, W/8).
Extract = Callable[[Tensor], tuple[Tensor, Tensor]]
Grey = NDArray[np.uint8]
Float = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How photographs are labelled.

    Attributes:
        homographies: views of a photograph, the first one the photograph itself.
        views: range of the other ones. light: strength of their photometric change.
        longest: longest side to which a photograph is shrunk, pixels.
        border: pixels along the edges of what a view shows that are not believed.
        nms_radius: pixels in which a label suppresses weaker ones.
        threshold: lowest mean score of a label, where a peak one pixel wide counts as it is and a
            wider one more, up to four times. detection: lowest score of a maximum in a view.
        most: labels of a photograph.
        near: pixels in a view within which a detection is that of a label (both at whole pixels).
        sampling: how descriptors are read, see `ProcessingConfig.descriptor_sampling`.
        batch_size: views in one pass of the network.
    """

    homographies: int = 40
    views: HomographyRange = field(
        default_factory=lambda: HomographyRange(
            rotation=45, scale=1.5, anisotropy=1.3, perspective=0.25, translation=0.1
        )
    )
    light: float = 0.0
    longest: int = 320
    border: int = 3
    nms_radius: int = 4
    threshold: float = 0.03
    detection: float = 0.015
    most: int = 300
    near: float = 3.0
    sampling: Sampling = "exact"
    batch_size: int = 10

    def __post_init__(self) -> None:
        for name in ("homographies", "most", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.homographies > np.iinfo(np.uint16).max:
            raise ConfigError(f"homographies must be at most 65535, not {self.homographies}")
        if self.longest < CELL:
            raise ConfigError(f"longest must be at least {CELL} px, not {self.longest}")
        for name in ("light", "border", "nms_radius", "threshold", "detection", "near"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} cannot be negative, as {getattr(self, name)} is")


def label_photograph(
    extract: Extract,
    photo: Grey,
    config: LabelConfig,
    rng: np.random.Generator,
    device: str = "cpu",
) -> PhotoLabels:
    """Label a photograph.

    Args:
        extract: the network, on `device`. photo: (H, W) uint8. rng: of views and light.
    """
    height, width = photo.shape
    size = working_size((width, height), config.longest)
    small = resize_grey(photo, size)
    to_views = draw_homographies(rng, size, config)
    images = [
        augment_photometric(rng, warp_image(small, H, size), config.light) for H in to_views[1:]
    ]
    scores, descriptors = _run(extract, np.stack([small, *images]), config.batch_size, device)
    covers = [_cover(H, size, config.border) for H in to_views]
    mean = aggregate(scores, covers, to_views)
    maps = torch.from_numpy(mean)[None]
    kept, values, valid = find_keypoints(
        maps, config.most, config.nms_radius, config.border, config.threshold
    )
    exact = (kept + subpixel_offsets(maps, kept))[valid].numpy()
    projected = np.stack([warp_points(exact, H) for H in to_views])  # (V, N, 2)
    seen = np.stack([_look_up(c, p) for c, p in zip(covers, projected, strict=True)])
    around = [_around_maxima(view, config) for view in scores]
    found = np.stack([_look_up(a, p) for a, p in zip(around, projected, strict=True)])
    matched = _matched(descriptors, projected, seen, config.sampling)
    return PhotoLabels(
        size=(width, height),
        points=map_points(exact, size, (width, height)),
        scores=values[valid].numpy(),
        covered=seen[1:].sum(0).astype(np.uint16),
        found=(found & seen)[1:].sum(0).astype(np.uint16),
        matched=(matched & seen)[1:].sum(0).astype(np.uint16),
    )


def working_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) at which a photograph is labelled: multiples of 8, never much larger."""
    small = resized_size(size, (longest,)) if max(size) > longest else size
    return max(CELL, round(small[0] / CELL) * CELL), max(CELL, round(small[1] / CELL) * CELL)


def draw_homographies(
    rng: np.random.Generator, size: tuple[int, int], config: LabelConfig
) -> list[Matrix]:
    """The identity and random homographies, photograph to view, without a horizon in either.

    Raises:
        ConfigError: the range is so wide that hardly any homography shows the whole photograph.
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
        raise ConfigError("views: this range of homographies turns photographs away; narrow it")
    return drawn


def aggregate(scores: Float, covers: list[Grey], to_views: list[Matrix]) -> Float:
    """The mean of the score maps of the views, warped back to the photograph.

    Each map is first spread to the neighbouring pixels (a maximum keeps its height), for a score
    that is one pixel wide would fall between the pixels of the photograph.

    Args:
        scores: (V, H, W). covers: V masks (H, W), 1 where a view is to be believed.

    Returns:
        (H, W) float32; each pixel counts the views that cover it, and is 0 where there are none.
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


def _run(extract: Extract, images: Grey, batch_size: int, device: str) -> tuple[Float, Tensor]:
    """Score maps (V, H, W) and descriptors (V, D, H/8, W/8), those on the device."""
    scores, descriptors = [], []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size])[:, None].to(device)
        found, dense = extract(batch.float() / 255)
        scores.append(found.float().cpu().numpy())
        descriptors.append(dense.float())
    return np.concatenate(scores), torch.cat(descriptors)


def _cover(homography: Matrix, size: tuple[int, int], border: int) -> Grey:
    """(H, W), 1 where a view shows the photograph, `border` px from the edges of both."""
    whole = np.ones((size[1], size[0]), np.uint8)
    cover = cv2.warpPerspective(whole, homography, size, flags=cv2.INTER_NEAREST)
    square = np.ones((2 * border + 1, 2 * border + 1), np.uint8)
    eroded = cv2.erode(cover, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(eroded, np.uint8)


def _look_up(mask: Grey, points: Matrix) -> Mask:
    """(N,), which points (N, 2) lie inside a mask (H, W), at the nearest pixel, and on it."""
    within = points_inside(points, (mask.shape[1], mask.shape[0]))
    x, y = np.rint(np.where(within[:, None], points, 0)).astype(np.int64).T
    return np.asarray(within & (mask[y, x] > 0))


def _around_maxima(scores: Float, config: LabelConfig) -> Grey:
    """(H, W), not 0 within `near` px of a detection in a score map (H, W)."""
    side = 2 * config.nms_radius + 1
    highest = np.asarray(cv2.dilate(scores, np.ones((side, side), np.uint8)))
    peaks = ((scores == highest) & (scores > config.detection)).astype(np.uint8)
    reach = np.arange(-int(config.near), int(config.near) + 1)
    disc = reach[:, None] ** 2 + reach**2 <= config.near**2
    return np.asarray(cv2.dilate(peaks, disc.astype(np.uint8)), np.uint8)


def _matched(descriptors: Tensor, projected: Matrix, seen: Mask, sampling: Sampling) -> Mask:
    """(V, N), where a label's descriptor in a view is most like its own in the photograph.

    It is compared with those of all labels that the view shows.
    """
    if seen.shape[1] == 0:
        return np.zeros(seen.shape, np.bool_)
    points = torch.from_numpy(np.where(seen[..., None], projected, 0)).to(descriptors)
    sampled = sample_descriptors(descriptors, points, sampling)  # (V, N, D)
    cosine = sampled @ sampled[0].T
    cosine.masked_fill_(~torch.from_numpy(seen).to(cosine.device)[:, None], -2.0)
    own = torch.arange(cosine.shape[1], device=cosine.device)
    return np.asarray((cosine.argmax(2) == own).cpu().numpy())
