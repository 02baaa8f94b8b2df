"""How much to prune of which layer: the ratios that cost least, from a sensitivity scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from featherglue.artifact.layers import layers
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError

Point = tuple[float, float]  # ratio, cost


@dataclass(frozen=True)
class _Segment:
    """A piece of a layer's cost curve along which each weight costs the same."""

    slope: float
    layer: str
    start: float
    end: float


def weight_counts(architecture: ArchitectureConfig) -> dict[str, int]:
    """Number of weights of every layer, biases left out."""
    return {layer.name: math.prod(layer.shape) for layer in layers(architecture)}


def allocate(
    costs: Mapping[str, Mapping[float, float]], weights: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """The ratio of each layer, of least total cost for a given share of zeros.

    Costs of layers are taken to add up, and to run straight between measured ratios along the
    lower hull of each layer's points. Taking, again and again, the piece of a hull with the least
    cost a weight is then exact: it is the fractional knapsack, and the slope where it ends is the
    Lagrange multiplier.

    Args:
        costs: layer → ratio in [0, 1) → cost, as points lost; at ratio 0 it is 0 unless given.
        weights: layer → number of its weights; layers without costs stay dense, but count.
        sparsity: share of zeros among all weights, in [0, 1).

    Returns:
        layer → ratio, for every layer of `costs`: the `ratios` of a `prune.PruneConfig` whose
        `ratio` is 0, for the rest.

    Raises:
        ConfigError: a layer or ratio that cannot be, or a sparsity that the measured ratios do
            not reach.
    """
    if not 0 <= sparsity < 1:
        raise ConfigError(f"sparsity must lie in [0, 1), not {sparsity}")
    for layer in costs:
        if layer not in weights:
            raise ConfigError(f"the scan has a layer {layer!r} that the model does not have")
    segments = [
        segment
        for layer, curve in costs.items()
        for segment in _segments(layer, curve, weights[layer])
    ]
    ratios = dict.fromkeys(costs, 0.0)
    left = sparsity * sum(weights.values())
    # Pieces of one layer come in order, for along a lower hull slopes rise.
    for segment in sorted(segments, key=lambda s: (s.slope, s.start)):
        room = (segment.end - segment.start) * weights[segment.layer]
        taken = min(room, left)
        if taken <= 0:
            break
        ratios[segment.layer] = segment.start + taken / weights[segment.layer]
        left -= taken
    if left > 1e-6 * sum(weights.values()):
        reached = sparsity - left / sum(weights.values())
        raise ConfigError(
            f"the scanned ratios reach a sparsity of {reached:.4f} at most, not {sparsity}: scan "
            "higher ratios or more layers"
        )
    return ratios


def _segments(layer: str, curve: Mapping[float, float], count: int) -> list[_Segment]:
    for ratio, cost in curve.items():
        if not 0 <= ratio < 1:
            raise ConfigError(f"{layer}: a ratio lies in [0, 1), not {ratio}")
        if not math.isfinite(cost):
            raise ConfigError(f"{layer}: the cost at ratio {ratio} is {cost}")
    hull = _lower_hull(sorted({0.0: 0.0, **curve}.items()))
    return [
        _Segment((cost1 - cost0) / ((ratio1 - ratio0) * count), layer, ratio0, ratio1)
        for (ratio0, cost0), (ratio1, cost1) in pairwise(hull)
    ]


def _lower_hull(points: Sequence[Point]) -> list[Point]:
    """The points, rising in ratio, of which none lies above the line between its neighbours."""
    hull: list[Point] = []
    for x, y in points:
        while len(hull) >= 2:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull
