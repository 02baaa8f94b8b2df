"""The context branch of the extractor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from featherglue.artifact.layers import total_macs
from featherglue.config import ArchitectureConfig, SuperPointConfig, from_dict, to_dict
from featherglue.errors import ConfigError
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint


def image(*size: int) -> torch.Tensor:
    return torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))


def context(models: dict[str, Model]) -> SuperPoint:
    extractor = models["context"].extractor
    assert extractor is not None
    return extractor


def reach(network: SuperPoint, at: int) -> int:
    """Columns of a 256-pixel wide image that change the descriptor of cell (1, `at`)."""
    seen = image(24, 256).requires_grad_()
    network.forward_raw(seen)[1][0, :, 1, at].sum().backward()
    assert seen.grad is not None
    return int((seen.grad[0, 0].abs().sum(0) > 0).sum())


def test_context_branch_widens_the_receptive_field(models: dict[str, Model]) -> None:
    plain = models["four-heads"].extractor
    assert plain is not None
    assert reach(plain, 16) < 128
    assert reach(context(models), 16) > 200


def test_the_context_branch_does_not_change_the_detector(models: dict[str, Model]) -> None:
    network = context(models)
    plain = SuperPoint(replace(network.config, context_channels=())).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    torch.testing.assert_close(plain(image(40, 56))[0], network(image(40, 56))[0])
    assert not torch.allclose(plain(image(40, 56))[1], network(image(40, 56))[1])


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (24, 16), (72, 88)])
def test_maps_with_odd_sides_keep_their_size(
    size: tuple[int, int], models: dict[str, Model]
) -> None:
    _, descriptors = context(models).forward_raw(image(*size))
    assert descriptors.shape[-2:] == (size[0] // 8, size[1] // 8)


def test_a_configuration_without_the_setting_has_no_context() -> None:
    config = SuperPointConfig()
    stored = to_dict(config)
    del stored["context_channels"]
    assert from_dict(SuperPointConfig, stored) == config


@pytest.mark.parametrize("widths", [(8,), (8, 8, 8), (8,) * 8, (8, 0)])
def test_every_level_needs_two_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"context_channels|at least 1"):
        SuperPointConfig(context_channels=widths)


def test_context_costs_little() -> None:
    small = SuperPointConfig(channels=(8, 8, 8, 16, 24, 24, 48, 48), stem=2)
    wide = replace(small, context_channels=(96, 96, 128, 128))
    first, second = (
        total_macs(ArchitectureConfig(extractor=config))["extractor"] for config in (small, wide)
    )
    assert 0 < second - first < 250e6
