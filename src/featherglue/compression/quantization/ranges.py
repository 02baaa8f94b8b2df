"""Range estimation: scales and zero points of quantized weights and activations.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, CVPR 2018.
"""

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
_NUM_BINS = 2048


def quantize_weight(
    weight: Float, bits: int, groups: int, scheme: Scheme, method: Method, percentile: float
) -> LinearTensor:
    """Quantize a weight, with one scale for each group of output channels.

    Args:
        weight: (out, …) float32.
        bits: number of bits, 4 to 8.
        groups: 1, or the number of output channels.
        scheme: "symmetric" has no zero point; "affine" covers any range that contains 0.
        method: "minmax" covers every value, "percentile" the given fraction of them, and "mse"
            minimizes the mean squared error.
        percentile: percentage of the values that "percentile" covers.
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
    """Return the smallest and the largest value of each group, extended to contain 0."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    parts = [flat[group == g] for g in range(groups)]
    ends = (100 - percentile, percentile) if method == "percentile" else (0, 100)
    both = np.array([np.percentile(part, ends) for part in parts])
    return np.minimum(both[:, 0], 0), np.maximum(both[:, 1], 0)


def _steps(
    low: NDArray[np.float64], high: NDArray[np.float64], bits: int, scheme: Scheme
) -> tuple[Float, NDArray[np.int16]]:
    """Return the scale and the zero point of each range."""
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
    """Round every weight to the nearest code. The codes of a symmetric range are symmetric."""
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
    """Return the scale and zero point of an activation that is stored as unsigned integers.

    Args:
        values: samples of the activation, (N,).
        low: smallest value of the activation.
        high: largest value of the activation.
        bits: number of bits, 4 to 8.
        scheme: "affine" fits both ends of the range. "symmetric" places 0 in the middle, or at the
            lower end if no value is negative.
        method: as in `quantize_weight`.
        percentile: as in `quantize_weight`; it applies to each end.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if method == "percentile":
        ends = np.percentile(values, (100 - percentile, percentile))
        low, high = min(float(ends[0]), 0.0), max(float(ends[1]), 0.0)
    if method != "mse":
        return _storage(low, high, bits, scheme)
    counts, edges = np.histogram(values, _NUM_BINS, (low, max(high, low + 1e-12)))
    centers = (edges[1:] + edges[:-1]) / 2
    tried = [_storage(low * f, high * f, bits, scheme) for f in _ACTIVATION_FACTORS]
    errors = [float((counts * (_dequantized(centers, s) - centers) ** 2).sum()) for s in tried]
    return tried[int(np.argmin(errors))]


def _storage(low: float, high: float, bits: int, scheme: Scheme) -> ActivationStorage:
    top, middle = 2**bits - 1, 2 ** (bits - 1)
    if scheme == "symmetric" and low < 0:
        scale, zero = max(high, -low) / (middle - 1), middle
    else:
        scale = (high - low) / top
        zero = 0 if low == 0 else min(max(round(-low / scale), 0), top)
    scale = float(np.float32(max(scale, 1e-12)))
    return ActivationStorage(scale=scale, zero_point=zero, bits=bits)


def _dequantized(values: NDArray[np.float64], storage: ActivationStorage) -> NDArray[np.float64]:
    codes = np.rint(values / storage.scale) + storage.zero_point
    codes = np.clip(codes, 0, 2**storage.bits - 1)
    result: NDArray[np.float64] = (codes - storage.zero_point) * storage.scale
    return result
