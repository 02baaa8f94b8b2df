"""Which weights stay: selection of single weights, blocks or N:M groups by importance."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featherglue.compression.pruning.importance import Double
from featherglue.compression.pruning.masks import Mask, Masks
from featherglue.errors import ConfigError

if TYPE_CHECKING:
    from featherglue.compression.pruning.fine_grained import PruneConfig

_PATTERN = re.compile(
    r"(?:(?P<keep>[1-9]\d*):(?P<group>[1-9]\d*)|(?P<outputs>[1-9]\d*)x1|1x(?P<inputs>[1-9]\d*))?"
)


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A sparsity pattern.

    Attributes:
        keep: number of weights that stay in each group of an N:M pattern, else 0.
        group: number of consecutive inputs in a group of an N:M pattern, else 0.
        block: numbers of consecutive output and input channels that are pruned together.
    """

    keep: int = 0
    group: int = 0
    block: tuple[int, int] = (1, 1)

    @staticmethod
    def parse(text: str) -> Pattern:
        """Parse "", "N:M", "Bx1" or "1xB". Raises ConfigError for anything else."""
        found = _PATTERN.fullmatch(text)
        if found is None:
            raise ConfigError(f'pattern must be "", "N:M", "Bx1" or "1xB", not {text!r}')
        keep, group = int(found["keep"] or 0), int(found["group"] or 0)
        if group and keep >= group:
            raise ConfigError(f"pattern {text} removes nothing: N must be less than M")
        block = int(found["outputs"] or 1), int(found["inputs"] or 1)
        return Pattern(keep=keep, group=group, block=block)


def select_weights(
    scores: Mapping[str, Double], ratios: Mapping[str, float], config: PruneConfig
) -> Masks:
    """Return the masks of the weights that stay. Every layer keeps at least one unit.

    Args:
        scores: layer name → importance of each weight, (out, in, …).
        ratios: layer name → fraction of the weights to remove, for the same layers.
    """
    pattern = Pattern.parse(config.pattern)
    if pattern.group:
        return Masks(
            kept={
                name: _largest_in_groups(score, pattern.keep, pattern.group)
                for name, score in scores.items()
            }
        )
    units = {name: unit_ids(score.shape, pattern.block) for name, score in scores.items()}
    values = {name: _unit_scores(scores[name], ids) for name, ids in units.items()}
    compared = [
        name
        for name in scores
        if config.scope == "global" and not any(fnmatchcase(name, g) for g in config.ratios)
    ]
    kept: dict[str, Mask] = {}
    if compared:
        flat = [values[name].reshape(-1) for name in compared]
        stays = _largest(np.concatenate(flat), config.ratio)
        parts = np.split(stays, np.cumsum([len(part) for part in flat])[:-1])
        for name, part, value in zip(compared, parts, flat, strict=True):
            part[np.argmax(value)] = True
            kept[name] = part[units[name]]
    for name, value in values.items():
        if name not in kept:
            rows = len(value) if config.scope == "row" else 1
            stays = np.stack([_largest(row, ratios[name]) for row in np.split(value.ravel(), rows)])
            kept[name] = stays.reshape(-1)[units[name]]
    return Masks(kept={name: kept[name] for name in scores})


def unit_ids(shape: Sequence[int], block: tuple[int, int]) -> NDArray[np.int64]:
    """Return the index of the unit of each weight, in the shape of the weight.

    The weights of `block` consecutive output and input channels at one place of the kernel form a
    unit. Units are numbered along the inputs first.
    """
    outputs, inputs = (np.arange(size) // step for size, step in zip(shape, block, strict=False))
    places = math.prod(shape[2:])
    columns = (inputs[:, None] * places + np.arange(places)).reshape(-1)
    ids: NDArray[np.int64] = outputs[:, None] * (columns[-1] + 1) + columns
    return ids.reshape(shape)


def _unit_scores(scores: Double, ids: NDArray[np.int64]) -> Double:
    """Return the mean importance of each unit: (rows of units, columns)."""
    flat = ids.reshape(-1)
    means: Double = np.bincount(flat, scores.reshape(-1)) / np.bincount(flat)
    return means.reshape(-1, ids[0].max() + 1)


def _largest(values: Double, ratio: float) -> Mask:
    """Return a mask that removes the given fraction of the smallest values, but never all."""
    removed = min(round(ratio * len(values)), len(values) - 1)
    stays = np.ones(len(values), np.bool_)
    stays[np.argsort(values, kind="stable")[:removed]] = False
    return stays


def _largest_in_groups(scores: Double, keep: int, group: int) -> Mask:
    """Return a mask that keeps the `keep` largest of every `group` consecutive inputs."""
    last = np.moveaxis(scores, 1, -1)
    groups = last.reshape(*last.shape[:-1], -1, group)
    rank = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.ascontiguousarray(np.moveaxis((rank < keep).reshape(last.shape), -1, 1))
