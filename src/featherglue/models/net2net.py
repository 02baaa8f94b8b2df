"""Net2net: initialization of a large network with the function of a trained small network.

Chen, Goodfellow, Shlens: Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016.

The weights of the small network become those of the first channels, heads and layers of the large
one. New channels have random input weights, and output weights of zero to the old channels, so
that the function stays the same and all weights receive gradients. New dimensions of descriptors
and final features are compared by dot products; they start small instead, because the gradient of
a product of two zeros is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.artifact.layers import ENCODER, context_levels
from featherglue.config import SuperGlueConfig, SuperPointConfig
from featherglue.errors import ConfigError
from featherglue.models.attention import Attention, AttentionLayer
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint

# Norm of a new row of compared features, relative to the mean norm of the old rows.
_NEW_ROW_NORM = 0.1


@torch.no_grad()
def grow_superpoint(small: SuperPoint, config: SuperPointConfig) -> SuperPoint:
    """A SuperPoint of larger sizes with the score map and nearly the descriptors of `small`.

    New weights are drawn from PyTorch's global generator. If `config` has a stem of 2 and `small`
    one of 1, the function is only similar.

    Args:
        small: the trained network.
        config: sizes of the new network.

    Raises:
        ConfigError: a size is below that of the small network, only one of the two has batch
            normalization, or the stem of the new network is finer.
    """
    if small.config.stem != config.stem:
        small = _coarser_stem(small, config)
    if small.config.batch_norm != config.batch_norm:
        raise ConfigError(
            f"batch_norm must be the same as that of the small network, {small.config.batch_norm}"
        )
    grown = SuperPoint(config)
    context = [
        (level.first, level.second, level.projection) for level in context_levels(grown.config)
    ]
    known = len(context_levels(small.config))
    if known > len(context):
        raise ConfigError("context_channels: fewer levels than in the small network")
    for name in (*ENCODER, "Pa", "Pb", *chain(*context[:known]), "Da", "Db"):
        old, new = (_conv(network, f"conv{name}") for network in (small, grown))
        nn.init.kaiming_normal_(new.weight, nonlinearity="relu")
        nn.init.zeros_(new.bias)  # type: ignore[arg-type]
        rows, columns = range(len(old.weight)), range(old.weight.shape[1])
        if name == "Db":
            _scale_new_rows(new.weight, old.weight)
        _copy(new.weight, old.weight, rows, columns)
        _copy(new.bias, old.bias, rows)
        if f"bn{name}" in dict(small.named_children()):
            before, after = (n.get_submodule(f"bn{name}").state_dict() for n in (small, grown))
            for key in ("weight", "bias", "running_mean", "running_var"):
                _copy(after[key], before[key], rows)
    for first, second, projection in context[known:]:
        for name in (first, second):
            nn.init.kaiming_normal_(_conv(grown, f"conv{name}").weight, nonlinearity="relu")
        nn.init.zeros_(_conv(grown, f"conv{projection}").weight)  # adds nothing at first
        nn.init.zeros_(_conv(grown, f"conv{projection}").bias)  # type: ignore[arg-type]
    return grown.train(small.training)


def _coarser_stem(network: SuperPoint, config: SuperPointConfig) -> SuperPoint:
    """A similar network whose first convolution has stride 2.

    The new conv1a is the old one averaged over 2×2 pixels; it replaces the first max pooling. The
    new conv1b is the sum of the old kernel at its center, exact for constant input.
    """
    if network.config.stem > config.stem:
        raise ConfigError("stem must not be finer than that of the small network")
    coarse = SuperPoint(replace(network.config, stem=config.stem)).train(network.training)
    state = network.state_dict()
    padded = F.pad(state["conv1a.weight"], (1, 1, 1, 1))
    state["conv1a.weight"] = F.avg_pool2d(padded, 2, stride=1)
    total = state["conv1b.weight"].sum((2, 3))
    state["conv1b.weight"] = torch.zeros_like(state["conv1b.weight"])
    state["conv1b.weight"][:, :, 1, 1] = total
    coarse.load_state_dict(state)
    return coarse


def _conv(network: SuperPoint, name: str) -> nn.Conv2d:
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    return layer


@torch.no_grad()
def grow_superglue(small: SuperGlue, config: SuperGlueConfig) -> SuperGlue:
    """A SuperGlue of larger sizes with nearly the score matrix of `small`.

    The first layers are those of the small network; the residuals of further layers start at 0.
    New weights are drawn from PyTorch's global generator.

    Args:
        small: the trained network.
        config: sizes of the new network.

    Raises:
        ConfigError: a size is below that of the small network, its first layers have other kinds,
            or one of the two has batch normalization.
    """
    _check_superglue(small.config, config)
    grown = SuperGlue(config)
    width = small.config.width
    inner = range(width)
    _grow_encoder(small, grown)
    _grow_input(small, grown)
    for i, layer in enumerate(grown.gnn.layers):
        assert isinstance(layer, AttentionLayer)
        last = layer.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)  # the residual of new features is 0
        if i >= len(small.gnn.layers):
            continue
        old = small.gnn.layers[i]
        assert isinstance(old, AttentionLayer)
        _grow_attention(old.attn, layer.attn)
        hidden = range(small.config.layers[i].hidden)
        both = [*inner, *(config.width + c for c in inner)]
        _copy_linear(layer.mlp[0], old.mlp[0], hidden, both)
        _copy_linear(last, old.mlp[-1], inner, hidden)
    scale = (config.width / width) ** 0.25  # applied to both images, so √ in the product
    old_rows = small.final_proj.weight * scale
    _scale_new_rows(grown.final_proj.weight, old_rows)
    nn.init.zeros_(grown.final_proj.bias)
    _copy(grown.final_proj.weight, old_rows, inner, inner)
    _copy(grown.final_proj.bias, small.final_proj.bias * scale, inner)
    grown.bin_score.copy_(small.bin_score)
    return grown.train(small.training)


def _check_superglue(old: SuperGlueConfig, new: SuperGlueConfig) -> None:
    if old.batch_norm or new.batch_norm:
        raise ConfigError("batch_norm must be folded before a matcher can grow")
    kinds = [layer.kind for layer in old.layers]
    if [layer.kind for layer in new.layers[: len(kinds)]] != kinds:
        raise ConfigError("layers must begin with the kinds of the small network's layers")
    if old.descriptor_dim != old.width and new.descriptor_dim == new.width:
        raise ConfigError(
            "width must differ from descriptor_dim, because the small network projects descriptors"
        )


def _grow_encoder(small: SuperGlue, grown: SuperGlue) -> None:
    old, new = ([m for m in n.kenc.encoder if isinstance(m, nn.Linear)] for n in (small, grown))
    if len(new) < len(old):
        raise ConfigError("keypoint_encoder must have at least the layers of the small network")
    if len(new) > len(old) == 1:
        raise ConfigError(
            "keypoint_encoder must have one layer, because that of the small network has one"
        )
    inputs = 3
    for i, layer in enumerate(new[:-1]):
        if i < len(old) - 1:
            outputs = len(old[i].weight)
            _copy_linear(layer, old[i], range(outputs), range(inputs))
            inputs = outputs
        else:  # a new layer: the identity, as ReLU does not change its input
            _copy(layer.weight, torch.eye(inputs), range(inputs), range(inputs))
            _copy(layer.bias, torch.zeros(inputs), range(inputs))
    _copy_linear(new[-1], old[-1], range(len(old[-1].weight)), range(inputs))


def _grow_input(small: SuperGlue, grown: SuperGlue) -> None:
    if not isinstance(grown.input_proj, nn.Linear):
        return
    width, dim = small.config.width, small.config.descriptor_dim
    weight, bias = torch.eye(width), torch.zeros(width)
    if isinstance(small.input_proj, nn.Linear):
        weight, bias = small.input_proj.weight, small.input_proj.bias
    _copy(grown.input_proj.weight, weight, range(width), range(dim))
    _copy(grown.input_proj.bias, bias, range(width))


def _grow_attention(old: Attention, new: Attention) -> None:
    """Copy the old heads to the first interleaved heads and their first channels."""
    if new.heads < old.heads or new.head_dim < old.head_dim:
        raise ConfigError("heads and head_dim must not be below those of the small network")
    width = len(old.merge.weight)
    channels = [d * new.heads + h for d in range(old.head_dim) for h in range(old.heads)]
    wider = [d * new.heads + h for d in range(old.head_dim, new.head_dim) for h in range(old.heads)]
    scale = (new.head_dim / old.head_dim) ** 0.25  # logits are divided by √head_dim
    for part, gain in enumerate((scale, scale, 1.0)):
        source, target = old.proj[part], new.proj[part]
        assert isinstance(source, nn.Linear) and isinstance(target, nn.Linear)
        _copy(target.weight, source.weight * gain, channels, range(width))
        _copy(target.bias, source.bias * gain, channels)
        if part == 1:  # new channels of old heads add 0 to the logits
            target.weight[wider] = 0
            target.bias[wider] = 0
    _copy_linear(new.merge, old.merge, range(width), channels)


def _copy_linear(
    new: nn.Module, old: nn.Module, rows: Sequence[int], columns: Sequence[int]
) -> None:
    assert isinstance(new, nn.Linear) and isinstance(old, nn.Linear)
    _copy(new.weight, old.weight, rows, columns)
    _copy(new.bias, old.bias, rows)


def _copy(
    new: Tensor | None,
    old: Tensor | None,
    rows: Sequence[int],
    columns: Sequence[int] | None = None,
) -> None:
    """Copy `old` to these rows and columns of `new`; the other columns of the rows become 0."""
    assert new is not None and old is not None
    if max(rows) >= len(new) or (columns is not None and max(columns) >= new.shape[1]):
        raise ConfigError("no width may be below that of the small network")
    at = torch.tensor(list(rows))
    if columns is None:
        new[at] = old
        return
    new[at] = 0
    new[at[:, None], torch.tensor(list(columns))] = old


def _scale_new_rows(new: Tensor, old: Tensor) -> None:
    """Scale all rows of `new` to a small fraction of the mean norm of the rows of `old`."""
    norm = new.flatten(1).norm(dim=1).clamp_min(1e-12)
    target = _NEW_ROW_NORM * old.flatten(1).norm(dim=1).mean()
    new.mul_((target / norm).reshape(-1, *[1] * (new.ndim - 1)))
