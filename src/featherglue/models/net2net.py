"""Larger networks that start as a small one (Chen, Goodfellow, Shlens: Net2Net, ICLR 2016).

A small network trains many times faster. What it has learned is laid into the first channels,
heads and layers of a larger one; nothing that is new reaches an old channel yet, so that the large
network starts with the small one's function, and goes on from there. New channels get random
weights in and zeros out: the zeros learn at once, since what they weigh is not zero. Of what is
compared by products (descriptors, final features) the new part starts small instead, for two zeros
would stay.

The same way a network whose stem looks at every second pixel starts as one that looks at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.artifact.layers import ENCODER
from featherglue.config import SuperGlueConfig, SuperPointConfig
from featherglue.errors import ConfigError
from featherglue.models.superglue import Attention, AttentionLayer, SuperGlue
from featherglue.models.superpoint import SuperPoint

# Share of an old row's length that a row has whose products are compared.
_NEW_PRODUCTS = 0.1


@torch.no_grad()
def grow_superpoint(small: SuperPoint, config: SuperPointConfig) -> SuperPoint:
    """A SuperPoint of other widths that finds what `small` finds, with nearly its descriptors.

    What is new is drawn from PyTorch's global generator.

    Raises:
        ConfigError: a width below the small network's, or only one has batch normalisation; the
            stem grows finer.
    """
    if small.config.stem != config.stem:
        small = _coarser_stem(small, config)
    if small.config.batch_norm != config.batch_norm:
        raise ConfigError(
            "batch_norm: both networks have it, or neither; of the small one it is "
            f"{small.config.batch_norm}"
        )
    grown = SuperPoint(config)
    for name in (*ENCODER, "Pa", "Pb", "Da", "Db"):
        old, new = (_conv(network, f"conv{name}") for network in (small, grown))
        nn.init.kaiming_normal_(new.weight, nonlinearity="relu")
        nn.init.zeros_(new.bias)  # type: ignore[arg-type]
        rows, columns = range(len(old.weight)), range(old.weight.shape[1])
        if name == "Db":
            _shrink_new_rows(new.weight, old.weight)
        _lay(new.weight, old.weight, rows, columns)
        _lay(new.bias, old.bias, rows)
        if f"bn{name}" in dict(small.named_children()):
            before, after = (n.get_submodule(f"bn{name}").state_dict() for n in (small, grown))
            for key in ("weight", "bias", "running_mean", "running_var"):
                _lay(after[key], before[key], rows)
    return grown.train(small.training)


def _coarser_stem(network: SuperPoint, config: SuperPointConfig) -> SuperPoint:
    """Roughly the same network, computed for every second pixel from the start.

    conv1a is followed by the mean over 2×2 pixels instead of a maximum later on, and conv1b keeps
    its response to what is even.
    """
    if network.config.stem > config.stem:
        raise ConfigError("stem: a network cannot grow a finer one")
    coarse = SuperPoint(replace(network.config, stem=config.stem)).train(network.training)
    state = network.state_dict()
    fine = F.pad(state["conv1a.weight"], (1, 1, 1, 1))
    state["conv1a.weight"] = F.avg_pool2d(fine, 2, stride=1)
    even = state["conv1b.weight"].sum((2, 3))
    state["conv1b.weight"] = torch.zeros_like(state["conv1b.weight"])
    state["conv1b.weight"][:, :, 1, 1] = even
    coarse.load_state_dict(state)
    return coarse


def _conv(network: SuperPoint, name: str) -> nn.Conv2d:
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Conv2d)
    return layer


@torch.no_grad()
def grow_superglue(small: SuperGlue, config: SuperGlueConfig) -> SuperGlue:
    """A SuperGlue of other sizes that matches nearly as `small` does.

    Its first layers are the small one's; those behind them change nothing yet.

    Raises:
        ConfigError: something is smaller than in the small network, its first layers are of other
            kinds, or there is batch normalisation.
    """
    _check(small.config, config)
    grown = SuperGlue(config)
    width = small.config.width
    inner = range(width)
    _grow_encoder(small, grown)
    _grow_input(small, grown)
    for i, layer in enumerate(grown.gnn.layers):
        assert isinstance(layer, AttentionLayer)
        last = layer.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)  # new features do not change from layer to layer yet
        if i >= len(small.gnn.layers):
            continue
        old = small.gnn.layers[i]
        assert isinstance(old, AttentionLayer)
        _grow_attention(old.attn, layer.attn)
        hidden = range(small.config.layers[i].hidden)
        both = [*inner, *(config.width + c for c in inner)]
        _lay_linear(layer.mlp[0], old.mlp[0], hidden, both)
        _lay_linear(last, old.mlp[-1], inner, hidden)
    scale = (config.width / width) ** 0.25  # on both sides, so √width in the product
    old_rows = small.final_proj.weight * scale
    _shrink_new_rows(grown.final_proj.weight, old_rows)
    nn.init.zeros_(grown.final_proj.bias)
    _lay(grown.final_proj.weight, old_rows, inner, inner)
    _lay(grown.final_proj.bias, small.final_proj.bias * scale, inner)
    grown.bin_score.copy_(small.bin_score)
    return grown.train(small.training)


def _check(old: SuperGlueConfig, new: SuperGlueConfig) -> None:
    if old.batch_norm or new.batch_norm:
        raise ConfigError("batch_norm: fold it before a matcher grows")
    kinds = [layer.kind for layer in old.layers]
    if [layer.kind for layer in new.layers[: len(kinds)]] != kinds:
        raise ConfigError("layers: the first ones must be of the small network's kinds")
    own = old.descriptor_dim == old.width
    if not own and new.descriptor_dim == new.width:
        raise ConfigError("width: the small network projects descriptors, so the large one must")


def _grow_encoder(small: SuperGlue, grown: SuperGlue) -> None:
    old, new = ([m for m in n.kenc.encoder if isinstance(m, nn.Linear)] for n in (small, grown))
    if len(new) < len(old):
        raise ConfigError("keypoint_encoder: fewer layers than in the small network")
    if len(new) > len(old) == 1:
        raise ConfigError("keypoint_encoder: nothing can grow from a single layer but itself")
    inputs = 3
    for i, layer in enumerate(new[:-1]):
        if i < len(old) - 1:
            outputs = len(old[i].weight)
            _lay_linear(layer, old[i], range(outputs), range(inputs))
            inputs = outputs
        else:  # one layer more: what is behind a ReLU passes through another unchanged
            _lay(layer.weight, torch.eye(inputs), range(inputs), range(inputs))
            _lay(layer.bias, torch.zeros(inputs), range(inputs))
    _lay_linear(new[-1], old[-1], range(len(old[-1].weight)), range(inputs))


def _grow_input(small: SuperGlue, grown: SuperGlue) -> None:
    if not isinstance(grown.input_proj, nn.Linear):
        return
    width, dim = small.config.width, small.config.descriptor_dim
    weight, bias = torch.eye(width), torch.zeros(width)
    if isinstance(small.input_proj, nn.Linear):
        weight, bias = small.input_proj.weight, small.input_proj.bias
    _lay(grown.input_proj.weight, weight, range(width), range(dim))
    _lay(grown.input_proj.bias, bias, range(width))


def _grow_attention(old: Attention, new: Attention) -> None:
    """Old heads stay in the first places of the interleaved ones, with their first channels."""
    if new.heads < old.heads or new.head_dim < old.head_dim:
        raise ConfigError("heads, head_dim: smaller than in the small network")
    width = len(old.merge.weight)
    channels = [d * new.heads + h for d in range(old.head_dim) for h in range(old.heads)]
    wider = [d * new.heads + h for d in range(old.head_dim, new.head_dim) for h in range(old.heads)]
    scale = (new.head_dim / old.head_dim) ** 0.25  # attention divides by √head_dim
    for part, gain in enumerate((scale, scale, 1.0)):
        source, target = old.proj[part], new.proj[part]
        assert isinstance(source, nn.Linear) and isinstance(target, nn.Linear)
        _lay(target.weight, source.weight * gain, channels, range(width))
        _lay(target.bias, source.bias * gain, channels)
        if part == 1:  # what a head compares besides starts at zero
            target.weight[wider] = 0
            target.bias[wider] = 0
    _lay_linear(new.merge, old.merge, range(width), channels)


def _lay_linear(
    new: nn.Module, old: nn.Module, rows: Sequence[int], columns: Sequence[int]
) -> None:
    assert isinstance(new, nn.Linear) and isinstance(old, nn.Linear)
    _lay(new.weight, old.weight, rows, columns)
    _lay(new.bias, old.bias, rows)


def _lay(
    new: Tensor | None,
    old: Tensor | None,
    rows: Sequence[int],
    columns: Sequence[int] | None = None,
) -> None:
    """Put `old` into these rows and columns of `new`; those rows hear of no other column."""
    assert new is not None and old is not None
    if max(rows) >= len(new) or (columns is not None and max(columns) >= new.shape[1]):
        raise ConfigError("a network can only grow: a width is below the small network's")
    at = torch.tensor(list(rows))
    if columns is None:
        new[at] = old
        return
    new[at] = 0
    new[at[:, None], torch.tensor(list(columns))] = old


def _shrink_new_rows(new: Tensor, old: Tensor) -> None:
    """Rows of `new` of a small share of the mean length of the old ones."""
    length = new.flatten(1).norm(dim=1).clamp_min(1e-12)
    wanted = _NEW_PRODUCTS * old.flatten(1).norm(dim=1).mean()
    new.mul_((wanted / length).reshape(-1, *[1] * (new.ndim - 1)))
