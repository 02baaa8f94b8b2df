"""Hooks on the activations of the networks, to observe or to quantize them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from featherglue.config import ActivationStorage
from featherglue.models.attention import Attention
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint

Network = TypeVar("Network", SuperPoint, SuperGlue)
_PRODUCT_INPUTS = ("scores.query", "scores.key", "message.weights", "message.value")


class Hook(Protocol):
    """Called with the name and the value of an activation; the network uses what it returns.

    The names are those of `artifact.layers.activation_names`.
    """

    def __call__(self, name: str, value: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FakeQuantize:
    """A hook that rounds activations to their quantized values.

    Its gradient is that of the straight-through estimator: 1 within the range of the quantized
    values, 0 outside of it (Jacob et al. 2018).

    Attributes:
        activations: quantization of the activations, by name; others stay floats.
    """

    activations: Mapping[str, ActivationStorage]

    def __call__(self, name: str, value: Tensor) -> Tensor:
        activation = self.activations.get(name)
        if activation is None:
            return value
        rounded = torch.fake_quantize_per_tensor_affine(
            value.float(), activation.scale, activation.zero_point, 0, 2**activation.bits - 1
        )
        return rounded.to(value.dtype)


def with_hooks(network: Network, hook: Hook, names: Collection[str]) -> Network:
    """A copy of a network that calls `hook` for the activations `names`."""
    hooked = copy.deepcopy(network)
    prefix = "extractor" if isinstance(hooked, SuperPoint) else "matcher"
    wanted = set(names)
    for path, module in hooked.named_modules():
        name = f"{prefix}.{path}"
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            _hook_layer(module, name, hook, wanted)
        elif isinstance(module, Attention):
            inputs = {part for part in _PRODUCT_INPUTS if f"{name}.{part}" in wanted}
            if inputs:
                module.product = _HookedAttention(name, hook, inputs)
    if isinstance(hooked, SuperGlue):
        if "matcher.similarity" in wanted:
            hooked.product.register_forward_pre_hook(_InputHook("matcher.similarity", hook))
        if "matcher.sinkhorn" in wanted:
            hooked.product.register_forward_hook(_OutputHook("matcher.sinkhorn", hook))
    return hooked


def _hook_layer(layer: nn.Module, name: str, hook: Hook, wanted: set[str]) -> None:
    if name in wanted:
        concatenated = ".gnn." in name and name.endswith(".mlp.0")
        on_input = _ConcatenatedInputHook if concatenated else _InputHook
        layer.register_forward_pre_hook(on_input(name, hook))
    if f"{name}.output" in wanted:
        layer.register_forward_hook(_OutputHook(f"{name}.output", hook))


@dataclass(frozen=True)
class _InputHook:
    name: str
    hook: Hook

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self.hook(self.name, value) for value in inputs)


@dataclass(frozen=True)
class _ConcatenatedInputHook:
    """Hooks features and message separately; a message MLP takes them concatenated."""

    name: str
    hook: Hook

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
        features, message = inputs[0].chunk(2, -1)
        hooked = self.hook(self.name, features), self.hook(f"{self.name}.message", message)
        return torch.cat(hooked, -1)


@dataclass(frozen=True)
class _OutputHook:
    name: str
    hook: Hook

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.hook(self.name, output)


class _HookedAttention(nn.Module):
    """`DotProductAttention` in single steps, with hooks on their inputs."""

    def __init__(self, name: str, hook: Hook, wanted: set[str]) -> None:
        super().__init__()
        self.name, self.hook, self.wanted = name, hook, wanted

    def _hooked(self, part: str, value: Tensor) -> Tensor:
        return self.hook(f"{self.name}.{part}", value) if part in self.wanted else value

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key = self._hooked("scores.query", query), self._hooked("scores.key", key)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        weights = self._hooked("message.weights", logits.softmax(-1))
        return weights @ self._hooked("message.value", value)
