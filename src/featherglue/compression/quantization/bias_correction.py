"""Bias correction: what quantization adds to the mean of a layer's output is taken from its bias
(Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019;
here with real inputs, and layer after layer, so that each sees what those before it now give).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from featherglue.compression.calibration import Inputs
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint

Network = SuperPoint | SuperGlue
_LARGEST_BATCH = 2**28  # numbers in the widest layer


@torch.no_grad()
def correct_biases(
    quantized: Network, original: Network, inputs: Inputs, layers: Collection[str]
) -> None:
    """Correct the biases of these layers of `quantized` in place.

    All inputs go through a layer at once, so that one run corrects every layer with those before
    it already corrected.

    Args:
        layers: names within the network, "conv1b".
    """
    run = _runner(quantized, inputs)
    wanted = _Means()
    _run_with(original, layers, wanted, run)
    _run_with(quantized, layers, _Corrector(wanted.means), run)


def _runner(network: Network, inputs: Inputs) -> Callable[[Any], None]:
    if isinstance(network, SuperPoint):
        widest = network.config.channels[0] * inputs.images[0].numel()
        count = max(1, min(len(inputs.images), _LARGEST_BATCH // widest))
        step = len(inputs.images) / count
        images = torch.cat([inputs.images[int(i * step)] for i in range(count)])
        return lambda network: network.forward_raw(images)
    assert inputs.sides is not None
    # Both orders in one batch: the first call of a layer then sees everything.
    both = [torch.cat(parts) for parts in zip(*inputs.sides, strict=True)]
    other = [torch.cat(parts) for parts in zip(*inputs.sides[::-1], strict=True)]
    return lambda network: network(*both, *other)


def _run_with(
    network: nn.Module, layers: Collection[str], hook: Any, run: Callable[[Any], None]
) -> None:
    handles = []
    for name in layers:
        layer = network.get_submodule(name)
        hook.names[layer] = name
        handles.append(layer.register_forward_hook(hook))
    try:
        run(network)
    finally:
        for handle in handles:
            handle.remove()


def _channel_means(layer: nn.Module, output: Tensor) -> Tensor:
    return output.mean((0, 2, 3)) if isinstance(layer, nn.Conv2d) else output.flatten(0, -2).mean(0)


@dataclass
class _Means:
    """Notes each layer's mean output, at its first call."""

    means: dict[str, Tensor] = field(default_factory=dict)
    names: dict[nn.Module, str] = field(default_factory=dict)

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.means.setdefault(self.names[layer], _channel_means(layer, output))


@dataclass
class _Corrector:
    """Brings each layer's mean output, at its first call, to what it was."""

    means: dict[str, Tensor]
    names: dict[nn.Module, str] = field(default_factory=dict)

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        wanted = self.means.pop(self.names[layer], None)
        if wanted is None:
            return None
        assert isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None
        shift = _channel_means(layer, output) - wanted
        layer.bias -= shift
        shape = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        return output - shift.reshape(shape)
