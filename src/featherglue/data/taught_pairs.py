"""Pairs of photographs with common points and a teacher's descriptors of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.data.feature_files import FeatureFile, Float
from featherglue.data.match_files import MatchFile
from featherglue.data.multiview import ModelPairs
from featherglue.data.photographs import PhotoFolder
from featherglue.data.real_pairs import MIN_OVERLAP, draw_pair
from featherglue.errors import TrainingError

_MIN_POINTS = 16
_MAX_DRAWS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class TaughtPair:
    """Two photographs of one scene.

    Attributes:
        numbers: indices of the photographs in their `PhotoFolder`.
        points: (M, 2) xy of each, pixels of the photographs; those with one index correspond.
        descriptors: (M, D) of each, the teacher's descriptors at the points.
        scene: number of the scene; -1 if it is unknown.
        positions: (M, 3) of the points in the scene; NaN if unknown.
        uncertainties: (M,) of the positions; NaN if unknown.
    """

    numbers: tuple[int, int]
    points: tuple[Float, Float]
    descriptors: tuple[Float, Float]
    scene: int = -1
    positions: Float
    uncertainties: Float


class TaughtPairs(Protocol):
    """A source of such pairs."""

    def draw(self, rng: np.random.Generator, scene: float | None = None) -> TaughtPair:
        """A random pair.

        Args:
            scene: a random number in [0, 1) that determines the scene; None takes any scene.
        """
        ...


def unknown_places(count: int) -> tuple[Float, Float]:
    """Positions (N, 3) and uncertainties (N,) of points that are unknown."""
    return np.full((count, 3), np.nan, np.float32), np.full(count, np.nan, np.float32)


class MatchedTaughtPairs:
    """Pairs of a match file; each point has the descriptor of its own photograph.

    Args:
        photos: the photographs.
        features: the teacher's features of every photograph, by its name.
        matches: matches between these features; verified ones, because training takes them as
            true.
    """

    def __init__(self, photos: PhotoFolder, features: FeatureFile, matches: MatchFile) -> None:
        self.features, self.matches = features, matches
        self._numbers = {name: number for number, name in enumerate(photos.names)}

    def draw(self, rng: np.random.Generator, scene: float | None = None) -> TaughtPair:
        """A random pair, in random order. The scenes are unknown, so `scene` is not used.

        Raises:
            TrainingError: the files do not fit.
        """
        del scene
        index = int(rng.integers(len(self.matches.pairs)))
        (name0, name1), matches = self.matches.pairs[index], self.matches[index]
        if rng.random() < 0.5:
            name0, name1, matches = name1, name0, matches[:, ::-1]
        known0, known1 = self.features[name0], self.features[name1]
        for name, known, indices in (
            (name0, known0, matches[:, 0]),
            (name1, known1, matches[:, 1]),
        ):
            self.matches.check_indices(name, indices, len(known.keypoints))
        rows0, rows1 = matches.T
        positions, uncertainties = unknown_places(len(matches))
        return TaughtPair(
            numbers=(self._numbers[name0], self._numbers[name1]),
            points=(known0.keypoints[rows0], known1.keypoints[rows1]),
            descriptors=(known0.descriptors[rows0], known1.descriptors[rows1]),
            positions=positions,
            uncertainties=uncertainties,
        )


class TransferredTaughtPairs:
    """Pairs with depth maps: the teacher's keypoints of one photograph and their places in another.

    Both points of a correspondence have the descriptor of the first photograph, so the student
    learns what does not change with the viewpoint. Hard pairs, of little overlap, are as frequent
    as easy ones.

    Args:
        photos: the photographs.
        features: the teacher's features of every photograph, by its name.
        pairs: the pairs, with a `transfer`.
    """

    def __init__(self, photos: PhotoFolder, features: FeatureFile, pairs: ModelPairs) -> None:
        self.photos, self.features, self.pairs = photos, features, pairs

    def draw(self, rng: np.random.Generator, scene: float | None = None) -> TaughtPair:
        """A random pair, in random order, with at least 16 points.

        Args:
            scene: see `TaughtPairs`. A scene is as frequent as it has pairs with depth maps. The
                next one replaces one without a pair of 16 points.

        Raises:
            TrainingError: a file cannot be read, or 100 random pairs have fewer points.
        """
        candidates: Iterable[NDArray[np.bool_] | None] = [None]
        if scene is not None:
            usable = self.pairs.have_depth & (self.pairs.overlaps >= MIN_OVERLAP)
            scenes = self.pairs.scenes[usable]
            first = int(scene * len(scenes))
            # Samples with the same number agree on the scene, also where one is replaced.
            others = dict.fromkeys(np.roll(scenes, -first).tolist())
            candidates = (usable & (self.pairs.scenes == number) for number in others)
        for chosen in candidates:
            found = self._draw(rng, chosen)
            if found is not None:
                return found
        raise TrainingError(
            f"{_MAX_DRAWS} random pairs have fewer than {_MIN_POINTS} common points with a depth"
        )

    def _draw(
        self, rng: np.random.Generator, candidates: NDArray[np.bool_] | None
    ) -> TaughtPair | None:
        """A pair of these candidates, or of all; None after 100 random ones with few points."""
        for _ in range(_MAX_DRAWS):
            pair = draw_pair(rng, self.pairs, candidates)
            if pair.transfer is None:
                continue
            known = self.features[self.photos.names[pair.numbers[0]]]
            there = pair.transfer(known.keypoints)
            seen = np.isfinite(there).all(1)
            if seen.sum() >= _MIN_POINTS:
                descriptors = known.descriptors[seen]
                positions, uncertainties = unknown_places(len(descriptors))
                if pair.locate is not None:
                    positions, uncertainties = pair.locate[0](known.keypoints[seen])
                return TaughtPair(
                    numbers=pair.numbers,
                    points=(known.keypoints[seen], there[seen]),
                    descriptors=(descriptors, descriptors),
                    scene=pair.scene,
                    positions=positions,
                    uncertainties=uncertainties,
                )
        return None
