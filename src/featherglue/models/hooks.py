"""Where activations can be watched or quantized, without a change to the networks themselves.

A hook is called with the name of an activation (see `layers.activation_names`) and its value, and
gives what takes its place.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from featherglue.config import ActivationStorage
from featherglue.models.superglue import Attention, SuperGlue
from featherglue.models.superpoint import SuperPoint

Network = TypeVar("Network", SuperPoint, SuperGlue)
_PRODUCTS = ("scores.query", "scores.key", "message.weights", "message.value")


class Hook(Protocol):
    """What is called on the way."""

    def __call__(self, name: str, value: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FakeQuantize:
    """Rounds activations to the whole numbers that they will be held as.

    The gradient is passed straight through, and is 0 outside of their range (Jacob et al. 2018).

    Attributes:
        activations: by name; others are left alone.
    """

    activations: Mapping[str, ActivationStorage]

    def __call__(self, name: str, value: Tensor) -> Tensor:
        how = self.activations.get(name)
        if how is None:
            return value
        rounded = torch.fake_quantize_per_tensor_affine(
            value.float(), how.scale, how.zero_point, 0, 2**how.bits - 1
        )
        return rounded.to(value.dtype)


def with_hooks(network: Network, hook: Hook, names: Collection[str]) -> Network:
    """A copy of a network that calls `hook` where the activations of these names pass."""
    tapped = copy.deepcopy(network)
    prefix = "extractor" if isinstance(tapped, SuperPoint) else "matcher"
    wanted = set(names)
    for path, module in tapped.named_modules():
        name = f"{prefix}.{path}"
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            _tap_layer(module, name, hook, wanted)
        elif isinstance(module, Attention):
            inner = {part for part in _PRODUCTS if f"{name}.{part}" in wanted}
            if inner:
                module.product = _TappedAttention(name, hook, inner)
    if isinstance(tapped, SuperGlue):
        if "matcher.similarity" in wanted:
            tapped.product.register_forward_pre_hook(_OnInputs("matcher.similarity", hook))
        if "matcher.sinkhorn" in wanted:
            tapped.product.register_forward_hook(_OnOutput("matcher.sinkhorn", hook))
    return tapped


def _tap_layer(layer: nn.Module, name: str, hook: Hook, wanted: set[str]) -> None:
    if name in wanted:
        halves = ".gnn." in name and name.endswith(".mlp.0")
        on = _OnHalves(name, hook) if halves else _OnInputs(name, hook)
        layer.register_forward_pre_hook(on)
    if f"{name}.output" in wanted:
        layer.register_forward_hook(_OnOutput(f"{name}.output", hook))


@dataclass(frozen=True)
class _OnInputs:
    name: str
    hook: Hook

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self.hook(self.name, value) for value in inputs)


@dataclass(frozen=True)
class _OnHalves:
    """The features and the message, which the MLP of a layer takes side by side."""

    name: str
    hook: Hook

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
        features, message = inputs[0].chunk(2, -1)
        halves = self.hook(self.name, features), self.hook(f"{self.name}.message", message)
        return torch.cat(halves, -1)


@dataclass(frozen=True)
class _OnOutput:
    name: str
    hook: Hook

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.hook(self.name, output)


class _TappedAttention(nn.Module):
    """Attention step by step, so that its parts can be reached."""

    def __init__(self, name: str, hook: Hook, wanted: set[str]) -> None:
        super().__init__()
        self.name, self.hook, self.wanted = name, hook, wanted

    def _at(self, part: str, value: Tensor) -> Tensor:
        return self.hook(f"{self.name}.{part}", value) if part in self.wanted else value

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        query, key = self._at("scores.query", query), self._at("scores.key", key)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        weights = self._at("message.weights", logits.softmax(-1))
        return weights @ self._at("message.value", value)
