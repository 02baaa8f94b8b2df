"""Range estimation: covered values and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featherglue.compression.quantization.ranges import activation_range, quantize_weight

RNG = np.random.default_rng
WEIGHT = (RNG(0).standard_normal((8, 30)) * np.linspace(0.1, 5, 8)[:, None]).astype(np.float32)


@pytest.mark.parametrize("bits", range(4, 9))
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_error_is_at_most_half_a_step(bits: int, groups: int, scheme: Any) -> None:
    code = quantize_weight(WEIGHT + 0.3, bits, groups, scheme, "minmax", 100)
    step = np.repeat(code.scale, 8 // groups)[:, None]
    # The zero point of an affine range is rounded as well.
    assert (
        np.abs(code.decode() - WEIGHT - 0.3) <= step * (0.501 if scheme == "symmetric" else 1)
    ).all()
    assert code.symmetric == (scheme == "symmetric")
    if scheme == "symmetric":
        half = 2 ** (bits - 1)
        assert code.codes.min() >= 1 - half
        flipped = quantize_weight(-WEIGHT - 0.3, bits, groups, scheme, "minmax", 100)
        np.testing.assert_array_equal(flipped.codes, -code.codes)


def test_zero_is_exact_in_every_scheme() -> None:
    weight = np.where(RNG(1).random(WEIGHT.shape) < 0.5, 0, WEIGHT + 1).astype(np.float32)
    for scheme in ("symmetric", "affine"):
        for groups in (1, 8):
            code = quantize_weight(weight, 5, groups, scheme, "mse", 100)  # type: ignore[arg-type]
            assert not code.decode()[weight == 0].any()
    nothing = quantize_weight(np.zeros((3, 2), np.float32), 8, 3, "symmetric", "mse", 100)
    assert not nothing.decode().any()


def test_scales_for_each_channel_reduce_the_error_of_small_channels() -> None:
    errors = []
    for groups in (1, 8):
        code = quantize_weight(WEIGHT, 6, groups, "symmetric", "minmax", 100)
        errors.append(np.abs(code.decode() - WEIGHT)[0].mean())
    assert errors[1] < 0.1 * errors[0]


def test_zero_point_reduces_the_error_of_one_sided_weights() -> None:
    errors = [
        np.square(quantize_weight(np.abs(WEIGHT), 5, 8, s, "minmax", 100).decode() - np.abs(WEIGHT))  # type: ignore[arg-type]
        for s in ("symmetric", "affine")
    ]
    assert errors[1].mean() < 0.4 * errors[0].mean()


def test_mse_range_minimizes_the_squared_error() -> None:
    weight = RNG(2).standard_t(3, (4, 500)).astype(np.float32)
    errors = {
        method: np.square(
            quantize_weight(weight, 4, 4, "symmetric", method, 99).decode() - weight  # type: ignore[arg-type]
        ).mean(1)
        for method in ("minmax", "percentile", "mse")
    }
    assert (errors["mse"] <= errors["minmax"]).all()
    assert errors["mse"].mean() < 0.7 * errors["minmax"].mean()
    assert errors["percentile"].mean() < errors["minmax"].mean()


VALUES = np.concatenate((RNG(3).exponential(size=20_000), [40.0])).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
def test_activation_range_covers_the_values(bits: int) -> None:
    top = 2**bits - 1

    def span(storage: Any) -> tuple[float, float]:
        return -storage.zero_point * storage.scale, (top - storage.zero_point) * storage.scale

    storage = activation_range(VALUES, 0.0, 40.0, bits, "affine", "minmax", 100)
    assert storage.zero_point == 0
    assert span(storage)[1] == pytest.approx(40)
    both = activation_range(VALUES, -2.0, 10.0, bits, "affine", "minmax", 100)
    low, high = span(both)
    assert low <= -2 + both.scale / 2 and high >= 10 - both.scale / 2
    even = activation_range(VALUES, -2.0, 10.0, bits, "symmetric", "minmax", 100)
    assert even.zero_point == 2 ** (bits - 1)
    assert activation_range(VALUES, 0.0, 10.0, bits, "symmetric", "minmax", 100).zero_point == 0
    cut = activation_range(VALUES, 0.0, 40.0, bits, "affine", "percentile", 99)
    assert span(cut)[1] == pytest.approx(np.percentile(VALUES, 99), rel=1e-5)


def test_mse_activation_range_minimizes_the_squared_error() -> None:
    def error(method: str, percentile: float = 100) -> float:
        storage = activation_range(VALUES, 0.0, 40.0, 4, "affine", method, percentile)  # type: ignore[arg-type]
        stored = np.clip(np.rint(VALUES / storage.scale), 0, 15) * storage.scale
        return float(np.square(stored - VALUES).mean())

    assert error("mse") < 0.2 * error("minmax")
    assert error("mse") <= 1.02 * min(error("percentile", p) for p in (90, 95, 99, 99.9, 100))


def test_activation_that_is_always_zero() -> None:
    storage = activation_range(np.zeros(5, np.float32), 0.0, 0.0, 8, "affine", "mse", 100)
    assert storage.scale > 0 and storage.zero_point == 0
