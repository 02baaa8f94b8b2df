"""Importance of single weights.

- "magnitude": |w| (Han et al., Learning both Weights and Connections, NIPS 2015).
- "taylor": |w·∂L/∂w|, the first-order change of a loss when the weight becomes zero, averaged over
  losses (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019).
- "activation": |w|·‖x‖, where x is the input that the weight multiplies (Sun et al., A Simple and
  Effective Pruning Approach for Large Language Models (Wanda), ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featherglue.compression.calibration import CalibrationData, run_extractor, run_matcher
from featherglue.errors import UsageError
from featherglue.models.hooks import with_hooks
from featherglue.models.model import Model
from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.models.superglue import SuperGlue

Double = NDArray[np.float64]
Importance = Literal["magnitude", "taylor", "activation"]
# Yields scalar losses of a model. Each is differentiated before the next one is computed.
Losses = Callable[[Model], Iterable[Tensor]]
_SINKHORN_ITERATIONS = 20


def weight_scores(
    model: Model,
    names: Collection[str],
    importance: Importance,
    calibration: CalibrationData | None = None,
    losses: Losses | None = None,
) -> dict[str, Double]:
    """Return the importance of every weight of some layers.

    Args:
        names: names of the layers; see `artifact.layers.layers`.
        importance: kind of importance.
        calibration: required by "activation", and by "taylor" without `losses`, which then uses
            `probe_losses`.
        losses: losses for "taylor".

    Returns:
        Layer name → float64 array in the shape of the weight, at least 0.

    Raises:
        UsageError: calibration data is required and missing.
    """
    weights = {name: _weight(model, name) for name in names}
    if importance == "magnitude":
        return {name: np.abs(weight) for name, weight in weights.items()}
    if importance == "activation":
        _require_calibration(calibration, names, importance)
        assert calibration is not None
        norms = input_norms(model, calibration, names)
        return {
            name: np.abs(weight) * norms[name].reshape(1, -1, *[1] * (weight.ndim - 2))
            for name, weight in weights.items()
        }
    if losses is None:
        _require_calibration(calibration, names, importance)
        assert calibration is not None
        losses = probe_losses(calibration)
    sums = {name: np.zeros(weight.shape) for name, weight in weights.items()}
    count = 0
    for products in gate_products(model, losses):
        count += 1
        for name in sums:
            sums[name] += np.abs(products[f"{name}.weight"])
    return {name: total / max(1, count) for name, total in sums.items()}


def gate_products(model: Model, losses: Losses) -> Iterator[dict[str, Double]]:
    """Yield w·∂L/∂w of every parameter w, once for each loss.

    The sum over all parameters that produce a channel is the derivative of the loss with respect
    to a gate that multiplies the channel.

    Yields:
        Tensor name → float64 array in the shape of the parameter.
    """
    copy = Model.from_artifact(model.to_artifact())
    parameters = {
        f"{prefix}.{name}": parameter
        for prefix, network in copy.networks().items()
        for name, parameter in network.named_parameters()
    }
    for loss in losses(copy):
        for parameter in parameters.values():
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        yield {
            name: np.zeros(parameter.shape)
            if parameter.grad is None
            else (parameter.detach().double() * parameter.grad.double()).cpu().numpy()
            for name, parameter in parameters.items()
        }


def probe_losses(calibration: CalibrationData, seed: int = 0) -> Losses:
    """Return losses that need no labels: outputs summed with random signs.

    The mean square of their gradient estimates how far the outputs move when a weight moves (the
    diagonal of the Gauss–Newton matrix). Probabilities p enter as 2·√p, for which the Euclidean
    distance is that of the Fisher information. Descriptors have unit length.

    Args:
        calibration: there is one loss for each image and one for each pair.
        seed: seed of the signs.
    """

    def losses(model: Model) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)

        if model.extractor is not None:
            for image in calibration.images:
                logits, descriptors = model.extractor.forward_raw(image)
                cells = logits.shape[2] * logits.shape[3]
                detections = 2 * (F.log_softmax(logits, 1) / 2).exp()
                unit = F.normalize(descriptors, dim=1)
                yield _probe(detections, cells, generator) + _probe(unit, cells, generator)
        if model.matcher is not None and calibration.features is not None:
            for pair in calibration.pairs():
                yield probe_assignment(model.matcher, model.matcher(*pair), generator)

    return losses


def probe_assignment(matcher: SuperGlue, scores: Tensor, generator: torch.Generator) -> Tensor:
    """Return the probe loss of a matcher, given its scores (B, N0, N1)."""
    assignment = log_optimal_transport(scores, matcher.bin_score, _SINKHORN_ITERATIONS)
    # Each row of a keypoint sums to 1. The row of the dustbin is left out.
    roots = 2 * (assignment[:, :-1] / 2).exp()
    return _probe(roots, roots.shape[1], generator)


def _probe(output: Tensor, decisions: int, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1
    total: Tensor = (output * signs).sum() / decisions**0.5
    return total


class _SquareSums:
    """A hook that sums the squares of each channel of an activation."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        flat = value.detach().double()
        flat = flat.transpose(0, 1).flatten(1) if value.ndim == 4 else flat.flatten(0, -2).T
        self.sums[name] = self.sums.get(name, 0) + flat.square().sum(1)
        self.counts[name] = self.counts.get(name, 0) + flat.shape[1]
        return value


@torch.no_grad()
def input_norms(
    model: Model, calibration: CalibrationData, names: Collection[str]
) -> dict[str, Double]:
    """Return the root mean square of every input channel of some layers: name → (in,)."""
    recorded = {part for name in names for part in (name, f"{name}.message")}
    squares = _SquareSums()
    if model.extractor is not None:
        run_extractor(with_hooks(model.extractor, squares, recorded), calibration)
    if model.matcher is not None and calibration.features is not None:
        run_matcher(with_hooks(model.matcher, squares, recorded), calibration)
    means = {name: total / squares.counts[name] for name, total in squares.sums.items()}
    return {
        name: torch.cat([means[p] for p in (name, f"{name}.message") if p in means]).sqrt().numpy()
        for name in names
    }


def _weight(model: Model, name: str) -> Double:
    prefix, _, path = name.partition(".")
    weight = model.networks()[prefix].get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return weight.detach().cpu().double().numpy()


def _require_calibration(
    calibration: CalibrationData | None, names: Collection[str], importance: str
) -> None:
    if calibration is None:
        raise UsageError(
            f'importance "{importance}" requires calibration images; "magnitude" does not'
        )
    if calibration.features is None and any(name.startswith("matcher.") for name in names):
        raise UsageError(
            f'importance "{importance}" of a matcher requires keypoints of an extractor, and this '
            'model has no extractor; use "magnitude"'
        )
