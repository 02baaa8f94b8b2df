"""Bias correction of quantized layers.

Subtracts the shift of each layer's mean output from its bias (Nagel et al., Data-Free Quantization
Through Weight Equalization and Bias Correction, ICCV 2019), measured on calibration data. Layers
are corrected in network order, so that each one sees corrected inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from featherglue.compression.calibration import CalibrationData
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint

Network = SuperPoint | SuperGlue
_MAX_ELEMENTS = 2**28  # of the largest activation of a batch


@torch.no_grad()
def correct_biases(
    quantized: Network,
    original: Network,
    calibration: CalibrationData,
    layers: Collection[str],
) -> None:
    """Correct the biases of some layers of `quantized`, in place.

    All calibration data runs through the network as one batch, so that a single run corrects every
    layer after the layers before it.

    Args:
        quantized: network with quantized weights.
        original: the same network before quantization.
        calibration: data on which mean outputs are compared.
        layers: layer names within the network, such as "conv1b".
    """
    run = _batch_runner(quantized, calibration)
    recorder = _MeanRecorder()
    _run_with_hook(original, layers, recorder, run)
    _run_with_hook(quantized, layers, _BiasCorrector(recorder.means), run)


def _batch_runner(network: Network, calibration: CalibrationData) -> Callable[[Any], None]:
    if isinstance(network, SuperPoint):
        largest = network.config.channels[0] * calibration.images[0].numel()
        count = max(1, min(len(calibration.images), _MAX_ELEMENTS // largest))
        step = len(calibration.images) / count
        images = torch.cat([calibration.images[int(i * step)] for i in range(count)])
        return lambda network: network.forward_raw(images)
    assert calibration.features is not None
    # Both orders of the views in one batch: the first call of a layer then sees all data.
    forward = [torch.cat(parts) for parts in zip(*calibration.features, strict=True)]
    backward = [torch.cat(parts) for parts in zip(*calibration.features[::-1], strict=True)]
    return lambda network: network(*forward, *backward)


def _run_with_hook(
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
class _MeanRecorder:
    """A hook that records the mean output of each layer at its first call."""

    means: dict[str, Tensor] = field(default_factory=dict)
    names: dict[nn.Module, str] = field(default_factory=dict)

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.means.setdefault(self.names[layer], _channel_means(layer, output))


@dataclass
class _BiasCorrector:
    """A hook that corrects the bias of each layer at its first call."""

    means: dict[str, Tensor]
    names: dict[nn.Module, str] = field(default_factory=dict)

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        target = self.means.pop(self.names[layer], None)
        if target is None:
            return None
        assert isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None
        shift = _channel_means(layer, output) - target
        layer.bias -= shift
        shape = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        return output - shift.reshape(shape)
