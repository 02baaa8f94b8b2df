"""Which whole numbers stand for which values: scales and zero points (Jacob et al., Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import LinearTensor, group_of
from featherglue.config import ActivationStorage

Float = NDArray[np.float32]
Scheme = Literal["symmetric", "affine"]
Method = Literal["minmax", "percentile", "mse"]
_WEIGHT_FACTORS = np.linspace(0.4, 1.0, 31)[::-1]
_ACTIVATION_FACTORS = np.linspace(0.05, 1.0, 96)[::-1]
_BINS = 2048


def quantize_weight(
    weight: Float, bits: int, groups: int, scheme: Scheme, method: Method, percentile: float
) -> LinearTensor:
    """Whole numbers for a weight, with a scale for each group of output channels.

    Args:
        weight: (out, …). bits: 4 to 8. groups: 1, or as many as output channels.
        scheme: "symmetric" has −x wherever it has x, and 0 as 0; "affine" any range with 0 in it.
        method: "minmax" holds every value, "percentile" this share of them, "mse" what makes
            the mean squared error smallest.
    """
    group = group_of(len(weight), groups)
    low, high = _weight_range(weight, group, groups, method, percentile)
    factors = _WEIGHT_FACTORS if method == "mse" else _WEIGHT_FACTORS[:1]
    best: LinearTensor | None = None
    errors = np.full(groups, np.inf)
    for factor in factors:
        tried = _round(weight, *_steps(low * factor, high * factor, bits, scheme), group, bits)
        error = np.zeros(groups)
        each = np.square(tried.decode() - weight, dtype=np.float64).reshape(len(weight), -1)
        np.add.at(error, group, each.sum(1))
        if best is not None:
            better = error < errors
            chosen = better[group].reshape(-1, *[1] * (weight.ndim - 1))
            tried = LinearTensor(
                codes=np.where(chosen, tried.codes, best.codes),
                scale=np.where(better, tried.scale, best.scale),
                zero=np.where(better, tried.zero, best.zero),
                bits=bits,
            )
        best, errors = tried, np.minimum(error, errors)
    assert best is not None
    return best


def _weight_range(
    weight: Float, group: NDArray[np.int64], groups: int, method: Method, percentile: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest value of each group, 0 included."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    parts = [flat[group == g] for g in range(groups)]
    ends = (100 - percentile, percentile) if method == "percentile" else (0, 100)
    both = np.array([np.percentile(part, ends) for part in parts])
    return np.minimum(both[:, 0], 0), np.maximum(both[:, 1], 0)


def _steps(
    low: NDArray[np.float64], high: NDArray[np.float64], bits: int, scheme: Scheme
) -> tuple[Float, NDArray[np.int16]]:
    """Scale and zero point for each range."""
    half = 2 ** (bits - 1)
    if scheme == "symmetric":
        scale = np.maximum(high, -low) / (half - 1)
    else:
        scale = (high - low) / (2 * half - 1)
    scale = np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny)
    zero = np.zeros(len(scale), np.int16)
    if scheme == "affine":
        zero = np.clip(np.rint(-half - low / scale), -half, half - 1).astype(np.int16)
    return scale, zero


def _round(
    weight: Float,
    scale: Float,
    zero: NDArray[np.int16],
    group: NDArray[np.int64],
    bits: int,
) -> LinearTensor:
    """The nearest code of every weight; those of a symmetric range are symmetric themselves."""
    half = 2 ** (bits - 1)
    shape = (-1, *[1] * (weight.ndim - 1))
    lowest = -half if zero.any() else 1 - half
    codes = np.rint(weight / scale[group].reshape(shape)) + zero[group].reshape(shape)
    codes = np.clip(codes, lowest, half - 1).astype(np.int8)
    return LinearTensor(codes=codes, scale=scale, zero=zero, bits=bits)


def activation_range(
    values: Float,
    low: float,
    high: float,
    bits: int,
    scheme: Scheme,
    method: Method,
    percentile: float,
) -> ActivationStorage:
    """How to hold an activation as whole numbers without sign.

    Args:
        values: (N,) a sample of it. low, high: its lowest and highest value.
        scheme: "affine" fits both ends; "symmetric" has 0 in the middle, or at the lower end
            where nothing is negative.
        method: as in `quantize_weight`; `percentile` cuts each end by what lies beyond it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if method == "percentile":
        ends = np.percentile(values, (100 - percentile, percentile))
        low, high = min(float(ends[0]), 0.0), max(float(ends[1]), 0.0)
    if method != "mse":
        return _activation(low, high, bits, scheme)
    counts, edges = np.histogram(values, _BINS, (low, max(high, low + 1e-12)))
    centres = (edges[1:] + edges[:-1]) / 2
    tried = [_activation(low * f, high * f, bits, scheme) for f in _ACTIVATION_FACTORS]
    errors = [float((counts * (_held(centres, how) - centres) ** 2).sum()) for how in tried]
    return tried[int(np.argmin(errors))]


def _activation(low: float, high: float, bits: int, scheme: Scheme) -> ActivationStorage:
    top, middle = 2**bits - 1, 2 ** (bits - 1)
    if scheme == "symmetric" and low < 0:
        scale, zero = max(high, -low) / (middle - 1), middle
    else:
        scale = (high - low) / top
        zero = 0 if low == 0 else min(max(round(-low / scale), 0), top)
    scale = float(np.float32(max(scale, 1e-12)))
    return ActivationStorage(scale=scale, zero_point=zero, bits=bits)


def _held(values: NDArray[np.float64], how: ActivationStorage) -> NDArray[np.float64]:
    codes = np.clip(np.rint(values / how.scale) + how.zero_point, 0, 2**how.bits - 1)
    held: NDArray[np.float64] = (codes - how.zero_point) * how.scale
    return held
