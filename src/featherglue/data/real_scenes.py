"""Views of two photographs of one scene with incomplete ground truth, for the matcher."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.appearance import augment_appearance
from featherglue.data.detector_labels import Sample, points_inside
from featherglue.data.homography import (
    Matrix,
    rotation_matrix,
    sample_homography,
    translation_matrix,
    warp_image,
    warp_points,
)
from featherglue.data.photographs import PhotoFolder
from featherglue.data.photometric import augment_photometric
from featherglue.data.real_pairs import (
    NUM_FITS,
    RealPairConfig,
    RealPairs,
    Transfer,
    draw_pair,
)
from featherglue.data.sample_points import choose_points, padded_rows
from featherglue.data.scenes import NO_PLANE, SceneConfig, Scenes
from featherglue.io.gray import Gray

_MAX_POINTS = 256
_EDGE = 4  # pixels


class RealScenes:
    """An endless dataset of views of real pairs. Sample `i` depends only on the seed and `i`.

    Each view shows the region of a photograph around one of the matches, warped by its own
    homography and with its own photometric change. A sample has the entries of `Scenes`, and:

    - `real`: () bool, true. The homographies `maps` mean nothing then, and `planes0` and `planes1`
      tell where the views show the photographs, without their edges.
    - `points0`, `points1`: (P, 2) float32 xy, matches that at least one view shows, padded with
      zeros.
    - `num_points`: () int64, number of matches.
    - `fundamentals`: (NUM_FITS, 3, 3) float32, F_0to1 of the views, of norm 1.
    - `targets0`, `targets1`, if `config` names depth maps: (H, W, 2) float32 xy, where each pixel
      is in the other view; NaN if that is unknown, infinite if its photograph does not show it.

    Args:
        photos: the photographs.
        pairs: pairs of them.
        scenes: size and photometric changes of the views.
        config: settings of the pairs.
        seed: seed of all random numbers.
    """

    def __init__(
        self,
        photos: PhotoFolder,
        pairs: RealPairs,
        scenes: SceneConfig,
        config: RealPairConfig,
        seed: int = 0,
    ) -> None:
        self.photos, self.pairs, self.scenes = photos, pairs, scenes
        self.config, self.seed = config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index, 5))
        pair, size = draw_pair(rng, self.pairs), self.scenes.size
        strong = rng.random() < self.scenes.appearance
        augment = augment_appearance if strong else augment_photometric
        center = int(rng.integers(len(pair.points0)))
        to_views: list[Matrix] = []
        points: list[Matrix] = []
        maps = np.tile(np.eye(3, dtype=np.float32), (self.scenes.max_planes + 1, 1, 1))
        sample: Sample = {"maps": maps}
        for view, (number, matched) in enumerate(
            zip(pair.numbers, (pair.points0, pair.points1), strict=True)
        ):
            photo = self.photos[number]
            to_view = self._to_view(rng, photo.shape, matched[center])
            warped = warp_image(photo, to_view, size)
            sample[f"image{view}"] = augment(rng, warped, self.scenes.photometric_strength)[None]
            sample[f"planes{view}"] = _shown(photo.shape, to_view, size)
            to_views.append(to_view)
            points.append(warp_points(matched, to_view))
        # A match that leaves a view shows that the keypoint at its other end is unmatched.
        visible = points_inside(points[0], size) | points_inside(points[1], size)
        visible &= np.isfinite(points[0] + points[1]).all(1)
        kept = choose_points(rng, visible, _MAX_POINTS)
        back0, back1 = np.linalg.inv(to_views[0]), np.linalg.inv(to_views[1])
        fundamentals = back1.T @ pair.fundamentals @ back0
        length = np.linalg.norm(fundamentals, axis=(1, 2), keepdims=True)
        if self.config.depths:
            sample["targets0"] = _targets(pair.transfer, to_views[0], to_views[1], size)
            reverse = None if pair.transfer is None else pair.transfer.swapped()
            sample["targets1"] = _targets(reverse, to_views[1], to_views[0], size)
        return sample | {
            "real": np.array(True),
            "points0": padded_rows(points[0][kept], _MAX_POINTS),
            "points1": padded_rows(points[1][kept], _MAX_POINTS),
            "num_points": np.asarray(len(kept), np.int64),
            "fundamentals": np.asarray(fundamentals / length, np.float32),
        }

    def _to_view(
        self, rng: np.random.Generator, shape: tuple[int, ...], center: NDArray[np.float32]
    ) -> Matrix:
        """A homography (3, 3) from a photograph (H, W) to a view around `center` (2,) xy."""
        size, (height, width) = self.scenes.size, shape[:2]
        scale = max(size[0] / width, size[1] / height) * rng.uniform(1.0, 1.4)
        half = np.array(size) / (2 * scale)
        sides = np.array([width, height])
        x, y = np.clip(center, np.minimum(half, sides / 2), np.maximum(sides - half, sides / 2))
        turn = int(rng.integers(1, 4)) if rng.random() < self.config.turns else 0
        crop = (
            translation_matrix((size[0] - 1) / 2, (size[1] - 1) / 2)
            @ rotation_matrix(turn * np.pi / 2)
            @ np.diag([scale, scale, 1.0])
            @ translation_matrix(-float(x), -float(y))
        )
        return sample_homography(rng, size, self.config.warp) @ crop


class MixedScenes:
    """Procedural scenes and real ones in random order. Sample `i` depends on the seed and `i` only.

    Procedural scenes get the entries of real ones, without any match.

    Args:
        scenes: procedural scenes.
        real: real scenes.
        fraction: fraction of the samples from `real`, in [0, 1].
        seed: seed of the order.
    """

    def __init__(self, scenes: Scenes, real: RealScenes, fraction: float, seed: int = 0) -> None:
        self.scenes, self.real, self.fraction, self.seed = scenes, real, fraction, seed

    def __getitem__(self, index: int) -> Sample:
        if np.random.default_rng((self.seed, index, 6)).random() < self.fraction:
            return self.real[index]
        nowhere = np.zeros((_MAX_POINTS, 2), np.float32)
        unknown = {}
        if self.real.config.depths:
            size = self.scenes.config.size
            unknown = {f"targets{v}": _targets(None, np.eye(3), np.eye(3), size) for v in (0, 1)}
        return (
            self.scenes[index]
            | unknown
            | {
                "real": np.array(False),
                "points0": nowhere,
                "points1": nowhere,
                "num_points": np.zeros((), np.int64),
                "fundamentals": np.zeros((NUM_FITS, 3, 3), np.float32),
            }
        )


def _shown(shape: tuple[int, ...], to_view: Matrix, size: tuple[int, int]) -> Gray:
    """0 where a view of `size` shows a photograph (H, W) and not its edge, else `NO_PLANE`."""
    white = np.full(shape[:2], 255, np.uint8)
    shown = cv2.warpPerspective(white, to_view, size)
    inner = cv2.erode(shown, np.ones((2 * _EDGE + 1,) * 2, np.uint8), borderValue=255)
    return np.where(inner == 255, 0, NO_PLANE).astype(np.uint8)


def _targets(
    transfer: Transfer | None, to_view: Matrix, to_other: Matrix, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Where the pixels of a view are in the other view: (H, W, 2) xy; NaN, infinite as above.

    Args:
        transfer: None if nothing is known.
        to_view, to_other: homographies of both photographs to their views.
        size: (width, height) of the views.
    """
    if transfer is None:
        return np.full((size[1], size[0], 2), np.nan, np.float32)
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack((x, y), -1).reshape(-1, 2).astype(np.float32)
    there = transfer(warp_points(pixels, np.linalg.inv(to_view).astype(np.float64)))
    seen = np.isfinite(there).all(1)
    there[seen] = warp_points(there[seen], to_other)
    return there.reshape(size[1], size[0], 2)
