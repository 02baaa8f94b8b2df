"""Large networks initialized with the function of a small one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from featherglue.config import AttentionConfig, SuperGlueConfig, SuperPointConfig
from featherglue.errors import ConfigError
from featherglue.models.net2net import grow_superglue, grow_superpoint
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint


def point_config(factor: int, batch_norm: bool) -> SuperPointConfig:
    return SuperPointConfig(
        channels=tuple(factor * c for c in (2, 2, 3, 3, 4, 4, 5, 5)),
        detector_channels=6 * factor,
        descriptor_channels=5 * factor,
        descriptor_dim=8 * factor,
        batch_norm=batch_norm,
    )


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_grown_superpoint_keeps_its_function(batch_norm: bool) -> None:
    torch.manual_seed(0)
    small = SuperPoint(point_config(1, batch_norm)).eval()
    for name, buffer in small.named_buffers():
        if buffer.ndim:
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else 0))
    grown = grow_superpoint(small, point_config(3, batch_norm))
    image = torch.rand(1, 1, 64, 48)
    with torch.no_grad():
        (scores, dense), (scores_grown, dense_grown) = small(image), grown(image)
    torch.testing.assert_close(scores_grown, scores)
    assert dense_grown[:, 8:].abs().max() > 1e-3, "new dimensions are there"
    old = F.normalize(dense_grown[:, :8], dim=1)
    torch.testing.assert_close(old, dense)
    # New dimensions have a small norm.
    assert dense_grown[:, 8:].norm(dim=1).max() < 0.7


def test_a_new_context_branch_changes_nothing_at_first() -> None:
    torch.manual_seed(0)
    small = SuperPoint(point_config(1, False)).eval()
    config = replace(small.config, context_channels=(6, 6))
    grown = grow_superpoint(small, config)
    image = torch.rand(1, 1, 64, 72)
    torch.testing.assert_close(grown(image), small(image))
    deeper = grow_superpoint(grown, replace(config, context_channels=(7, 8, 9, 9)))
    torch.testing.assert_close(deeper(image), small(image))
    with pytest.raises(ConfigError, match="fewer levels"):
        grow_superpoint(grown, small.config)


def test_a_coarser_stem_is_exact_for_constant_images() -> None:
    torch.manual_seed(0)
    fine = SuperPoint(point_config(1, False)).eval()
    config = replace(fine.config, stem=2)
    coarse = grow_superpoint(fine, config)
    assert coarse.conv1a.weight.shape == (2, 1, 4, 4)
    with torch.no_grad():
        found = [network(torch.full((1, 1, 96, 96), 0.6))[0] for network in (fine, coarse)]
    inner = slice(40, 56)
    torch.testing.assert_close(found[1][0, inner, inner], found[0][0, inner, inner])
    with pytest.raises(ConfigError, match="finer"):
        grow_superpoint(coarse, fine.config)


def test_all_new_weights_receive_gradients() -> None:
    torch.manual_seed(0)
    grown = grow_superpoint(SuperPoint(point_config(1, True)), point_config(2, True)).train()
    optimizer = torch.optim.SGD(grown.parameters(), 0.01)
    image, weights = torch.rand(1, 1, 64, 64), torch.randn(1, 16, 8, 8)
    for _ in range(2):
        scores, dense = grown(image)
        optimizer.zero_grad()
        (scores.square().sum() + (dense * weights).sum()).backward()
        optimizer.step()
    for name, parameter in grown.named_parameters():
        if parameter.ndim > 1:
            learning = (parameter.grad.abs() > 0).float().mean()
            assert learning > 0.9, name


def layer(kind: str, heads: int, head_dim: int, hidden: int) -> AttentionConfig:
    return AttentionConfig(kind=kind, heads=heads, head_dim=head_dim, hidden=hidden)  # type: ignore[arg-type]


SMALL = SuperGlueConfig(
    descriptor_dim=8,
    width=8,
    keypoint_encoder=(5, 6),
    layers=(layer("self", 1, 4, 10), layer("cross", 2, 4, 9)),
    batch_norm=False,
)
LARGE = SuperGlueConfig(
    descriptor_dim=24,
    width=24,
    keypoint_encoder=(7, 9, 11),
    layers=(
        layer("self", 4, 6, 30),
        layer("cross", 4, 4, 12),
        layer("self", 2, 4, 10),
        layer("cross", 2, 4, 10),
    ),
    batch_norm=False,
)


def matcher(config: SuperGlueConfig) -> SuperGlue:
    torch.manual_seed(1)
    network = SuperGlue(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def views(dim: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for count in (20, 15):
        descriptors = torch.zeros(1, count, dim)
        descriptors[..., :8] = torch.randn(1, count, 8, generator=generator)
        points = torch.rand(1, count, 2, generator=generator)
        found += [points, torch.rand(1, count, generator=generator), descriptors]
    return found


@pytest.mark.parametrize("projected", [False, True])
def test_a_grown_superglue_keeps_its_function(
    projected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featherglue.models.net2net._NEW_ROW_NORM", 0.0)
    small = matcher(SMALL)
    config = LARGE
    if projected:
        config = SuperGlueConfig(
            descriptor_dim=8,
            width=24,
            keypoint_encoder=(7, 9),
            layers=LARGE.layers,
            batch_norm=False,
        )
    grown = grow_superglue(small, config)
    with torch.no_grad():
        expected, found = small(*views(8)), grown(*views(config.descriptor_dim))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grown.bin_score, small.bin_score)


def test_new_features_change_the_scores_slightly() -> None:
    small = matcher(SMALL)
    with torch.no_grad():
        expected, found = small(*views(8)), grow_superglue(small, LARGE)(*views(24))
    difference = (found - expected).abs().max()
    assert 0 < difference < 0.3 * expected.std()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SuperGlueConfig(descriptor_dim=8, width=8), "batch_norm"),
        (SuperGlueConfig(descriptor_dim=4, width=4, batch_norm=False), "no width may be below"),
        (
            SuperGlueConfig(
                descriptor_dim=16, width=16, layers=LARGE.layers[::-1], batch_norm=False
            ),
            "kinds",
        ),
        (
            SuperGlueConfig(descriptor_dim=16, width=16, keypoint_encoder=(9,), batch_norm=False),
            "keypoint_encoder",
        ),
    ],
)
def test_invalid_sizes_raise(config: SuperGlueConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grow_superglue(matcher(SMALL), config)


def test_a_superpoint_cannot_shrink() -> None:
    with pytest.raises(ConfigError, match="no width may be below"):
        grow_superpoint(SuperPoint(point_config(2, False)), point_config(1, False))
    with pytest.raises(ConfigError, match="batch_norm"):
        grow_superpoint(SuperPoint(point_config(1, True)), point_config(2, False))
