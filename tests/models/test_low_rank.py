"""SuperGlue with narrower heads."""

from __future__ import annotations

import pytest
import torch

from featherglue.config import AttentionConfig, SuperGlueConfig
from featherglue.errors import ConfigError
from featherglue.models.attention import Attention
from featherglue.models.low_rank import narrow_heads
from featherglue.models.superglue import SuperGlue


def network(heads: int, head_dim: int) -> SuperGlue:
    torch.manual_seed(heads)
    layers = tuple(
        AttentionConfig(kind=kind, heads=heads, head_dim=head_dim, hidden=24)
        for kind in ("self", "cross")
    )
    config = SuperGlueConfig(descriptor_dim=16, width=16, keypoint_encoder=(8,), layers=layers)
    return SuperGlue(config).eval()


def inputs(count: int = 30) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.randn(2, count, 16, generator=generator)
    return [torch.rand(2, count, 2, generator=generator), torch.rand(2, count), descriptors]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_of_low_rank_are_exact(heads: int) -> None:
    model = network(heads, 12)
    with torch.no_grad():
        for attention in (m for m in model.modules() if isinstance(m, Attention)):
            for layer in attention.proj:  # rank 5 of 12
                layer.weight.unflatten(0, (12, heads))[5:] = 0
                layer.bias.unflatten(0, (12, heads))[5:] = 0
    narrow = narrow_heads(model, 6)  # the bias of the query adds one
    assert {layer.head_dim for layer in narrow.config.layers} == {6}
    view0, view1 = inputs(30), inputs(20)
    with torch.no_grad():
        torch.testing.assert_close(
            narrow(*view0, *view1), model(*view0, *view1), atol=1e-4, rtol=1e-4
        )


def test_the_error_falls_with_the_width() -> None:
    model = network(2, 16)
    view = inputs()
    with torch.no_grad():
        expected = model(*view, *view)
        gaps = [
            float((narrow_heads(model, width)(*view, *view) - expected).abs().mean())
            for width in (2, 6, 12, 16)
        ]
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[3] == 0


def test_the_original_is_unchanged() -> None:
    model = network(1, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    narrow_heads(model, 4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ConfigError, match="head_dim must be at least 1"):
        narrow_heads(model, 0)
