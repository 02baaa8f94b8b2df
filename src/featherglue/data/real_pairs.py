"""Pairs of photographs of one scene with verified matches: incomplete ground truth for a matcher.

The matches cover a part of the scene. The epipolar geometry that they determine covers all of it,
but tells only where a match cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.data.homography import HomographyRange
from featherglue.errors import ConfigError, TrainingError
from featherglue.geometry.direct_linear_transform import linear_fundamental

Float = NDArray[np.float32]
MIN_OVERLAP, EASY_OVERLAP = 0.05, 0.4
"""Minimum overlap of a pair, and the overlap from which a pair counts as easy."""
NUM_FITS = 3
"""Number of fundamental matrices of a pair."""
MIN_MATCHES = 20
"""Minimum number of verified matches of a pair."""
_MAX_DRAWS = 100


class Transfer(Protocol):
    """Maps points of one photograph to another one; see `data.depth_maps.DepthTransfer`."""

    def __call__(self, points: NDArray[np.floating]) -> Float:
        """Points (N, 2) xy to (N, 2) xy; NaN if unknown, infinite if they are not visible."""
        ...

    def swapped(self) -> Transfer:
        """The map in the other direction."""
        ...


class Locate(Protocol):
    """Places points of a photograph in its scene."""

    def __call__(self, points: NDArray[np.floating]) -> tuple[Float, Float]:
        """Points (N, 2) xy to positions (N, 3) and their uncertainties (N,), NaN if unknown.

        Both are in units of the scene.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class RealPair:
    """Two photographs of one scene.

    Attributes:
        numbers: indices of the photographs in their `PhotoFolder`.
        points0, points1: (M, 2) float32 xy, verified matches, pixels of the photographs.
        fundamentals: (NUM_FITS, 3, 3) float64, fundamental matrices F_0to1 of the pair. Where they
            disagree, the matches do not determine the epipolar geometry.
        transfer: where points of the first photograph are in the second, by depth; None if there
            are no depth maps.
        scene: number of the scene; -1 if it is unknown.
        locate: positions of points of each photograph in the scene; None without depth maps.
    """

    numbers: tuple[int, int]
    points0: Float
    points1: Float
    fundamentals: NDArray[np.float64]
    transfer: Transfer | None = None
    scene: int = -1
    locate: tuple[Locate, Locate] | None = None

    def swapped(self) -> RealPair:
        """The pair in the other order."""
        return RealPair(
            numbers=(self.numbers[1], self.numbers[0]),
            points0=self.points1,
            points1=self.points0,
            fundamentals=self.fundamentals.transpose(0, 2, 1),
            transfer=None if self.transfer is None else self.transfer.swapped(),
            scene=self.scene,
            locate=None if self.locate is None else (self.locate[1], self.locate[0]),
        )


class RealPairs(Protocol):
    """A source of pairs of photographs.

    Attributes:
        overlaps: (P,) float64 in [0, 1], overlap of each pair.
    """

    overlaps: NDArray[np.float64]

    def __getitem__(self, index: int) -> RealPair | None:
        """Pair `index`; None if it has too few verified matches."""
        ...


@dataclass(frozen=True, kw_only=True)
class RealPairConfig:
    """Settings of pairs of real photographs in the training of a matcher.

    Attributes:
        features: HDF5 file in hloc's layout with the keypoints of every photograph that `matches`
            names, by its path below the folder of photographs.
        matches: HDF5 file in hloc's layout with matches between these keypoints. Each pair is
            verified by a fundamental matrix. "" if `models` has the pairs.
        models: folder of COLMAP models of the photographs, one subfolder each, or of a single
            model. "" if `matches` has the pairs.
        depths: folder of the depth maps that `featherglue depth` made of `models`; "" for none.
            Where both photographs have a depth, they tell where a keypoint is in the other one, or
            that it is hidden there.
        fraction: fraction of the scenes that are real, in (0, 1].
        warp: range of the homography of each view, on top of the crop.
        turns: probability that a view is rotated by 90, 180 or 270°.
        epipolar_weight: weight of the probability of matches that the epipolar geometry excludes.

    Raises:
        ConfigError: a value is out of range, or no source or both sources are given.
    """

    features: str = ""
    matches: str = ""
    models: str = ""
    depths: str = ""
    fraction: float = 0.5
    warp: HomographyRange = field(
        default_factory=lambda: HomographyRange(
            rotation=25, scale=1.4, anisotropy=1.15, perspective=0.15, translation=0.1
        )
    )
    turns: float = 0.15
    epipolar_weight: float = 1.0

    def __post_init__(self) -> None:
        if bool(self.matches) == bool(self.models):
            raise ConfigError("pairs needs either matches or models")
        if bool(self.matches) != bool(self.features):
            raise ConfigError(
                "pairs.features has the keypoints of pairs.matches: give both or neither"
            )
        if self.depths and not self.models:
            raise ConfigError("pairs.depths are depth maps of pairs.models: give both or neither")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"pairs.fraction must be in (0, 1], not {self.fraction}")
        if not 0 <= self.turns <= 1:
            raise ConfigError(f"pairs.turns must be in [0, 1], not {self.turns}")
        if not self.epipolar_weight >= 0:
            raise ConfigError(
                f"pairs.epipolar_weight must be at least 0, not {self.epipolar_weight}"
            )


def fit_fundamentals(
    points0: Float, points1: Float, best: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The fundamental matrix of matches, and those of random halves of them.

    Halves of matches that determine the epipolar geometry give nearly the same matrix; those of
    matches on one plane do not.

    Args:
        points0, points1: (M, 2) xy in pixels of at least 16 matches.
        best: (3, 3), the fundamental matrix of all matches.

    Returns:
        (NUM_FITS, 3, 3) float64.
    """
    rng = np.random.default_rng(len(points0))
    fits = [best]
    for _ in range(NUM_FITS - 1):
        half = rng.permutation(len(points0))[: len(points0) // 2]
        fits.append(linear_fundamental(points0[half], points1[half]))
    return np.stack(fits)


def draw_pair(
    rng: np.random.Generator, pairs: RealPairs, candidates: NDArray[np.bool_] | None = None
) -> RealPair:
    """A random pair of at least `MIN_OVERLAP`.

    Hard pairs, of less overlap than `EASY_OVERLAP`, are as frequent as easy ones.

    Args:
        candidates: (P,), which of the pairs to draw from; None draws from all.

    Raises:
        TrainingError: no pair has enough overlap, or none of 100 random ones has enough verified
            matches.
    """
    usable = pairs.overlaps >= MIN_OVERLAP
    if candidates is not None:
        usable &= candidates
    easy = usable & (pairs.overlaps >= EASY_OVERLAP)
    hard = usable & ~easy
    kinds = [np.flatnonzero(kind) for kind in (hard, easy) if kind.any()]
    if not kinds:
        raise TrainingError(f"no pair of photographs has an overlap of {MIN_OVERLAP:.0%}")
    for _ in range(_MAX_DRAWS):
        pair = pairs[int(rng.choice(kinds[int(rng.integers(len(kinds)))]))]
        if pair is not None:
            return pair if rng.random() < 0.5 else pair.swapped()
    raise TrainingError(f"{_MAX_DRAWS} random pairs have fewer than {MIN_MATCHES} verified matches")
