"""Allocation of pruning ratios to layers at the least total cost, from a sensitivity scan."""

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
    """A part of a layer's cost curve with a constant cost for each weight."""

    slope: float
    layer: str
    start: float
    end: float


def weight_counts(architecture: ArchitectureConfig) -> dict[str, int]:
    """Return the number of weights of every layer, without biases."""
    return {layer.name: math.prod(layer.shape) for layer in layers(architecture)}


def allocate(
    costs: Mapping[str, Mapping[float, float]], weights: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """Return the pruning ratios with the least total cost for a given sparsity.

    The costs of layers are assumed to be additive. Between measured ratios, the cost follows the
    lower convex hull of a layer's points. Under these assumptions the greedy choice of the segment
    with the least cost for each weight is optimal (the fractional knapsack problem).

    Args:
        costs: layer name → ratio in [0, 1) → cost. The cost at ratio 0 is 0 unless given.
        weights: layer name → number of weights. Layers without costs stay dense, but count.
        sparsity: fraction of zeros among all weights, in [0, 1).

    Returns:
        Layer name → ratio, for every layer of `costs`. Use it as `ratios` of a `PruneConfig` whose
        `ratio` is 0.

    Raises:
        ConfigError: a layer is unknown, a ratio or cost is invalid, or the measured ratios do not
            reach the sparsity.
    """
    if not 0 <= sparsity < 1:
        raise ConfigError(f"sparsity must be in [0, 1), not {sparsity}")
    for layer in costs:
        if layer not in weights:
            raise ConfigError(f"the scan contains the layer {layer!r}, which the model lacks")
    segments = [
        segment
        for layer, curve in costs.items()
        for segment in _segments(layer, curve, weights[layer])
    ]
    ratios = dict.fromkeys(costs, 0.0)
    left = sparsity * sum(weights.values())
    # The segments of a layer stay in order, because the slopes of a convex hull increase.
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
            f"the scanned ratios reach a sparsity of at most {reached:.4f}, not {sparsity}: scan "
            "higher ratios or more layers"
        )
    return ratios


def _segments(layer: str, curve: Mapping[float, float], count: int) -> list[_Segment]:
    for ratio, cost in curve.items():
        if not 0 <= ratio < 1:
            raise ConfigError(f"{layer}: a ratio must be in [0, 1), not {ratio}")
        if not math.isfinite(cost):
            raise ConfigError(f"{layer}: the cost at ratio {ratio} must be finite, not {cost}")
    hull = _lower_hull(sorted({0.0: 0.0, **curve}.items()))
    return [
        _Segment((cost1 - cost0) / ((ratio1 - ratio0) * count), layer, ratio0, ratio1)
        for (ratio0, cost0), (ratio1, cost1) in pairwise(hull)
    ]


def _lower_hull(points: Sequence[Point]) -> list[Point]:
    """Return the lower convex hull of points in ascending order of ratio."""
    hull: list[Point] = []
    for x, y in points:
        while len(hull) >= 2:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull
