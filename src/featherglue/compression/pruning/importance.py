"""How much each weight matters: by its size, by what its removal does to the output, or by its
size times that of what it is multiplied with.

- "magnitude": |w| (Han et al., Learning both Weights and Connections, NIPS 2015).
- "taylor": |w·∂L/∂w|, the first-order change of a loss when the weight becomes 0, a mean over
  losses (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019).
- "activation": |w|·‖x‖, with the input x that it is multiplied with (Sun et al., A Simple and
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

from featherglue.compression.calibration import Inputs, run_extractor, run_matcher
from featherglue.errors import UsageError
from featherglue.models.hooks import with_hooks
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue, log_optimal_transport

Double = NDArray[np.float64]
Importance = Literal["magnitude", "taylor", "activation"]
# Scalar losses of a model, one after another; each is differentiated before the next is asked for.
Losses = Callable[[Model], Iterable[Tensor]]
_SINKHORN_ITERATIONS = 20


def weight_scores(
    model: Model,
    names: Collection[str],
    importance: Importance,
    inputs: Inputs | None = None,
    losses: Losses | None = None,
) -> dict[str, Double]:
    """The importance of every weight of these layers, in the weight's shape, at least 0.

    Args:
        names: of layers, see `layers.layers`.
        inputs: for "activation", and for "taylor" without losses; see `probe_losses`.
        losses: for "taylor".

    Raises:
        UsageError: inputs are needed and not there.
    """
    weights = {name: _weight(model, name) for name in names}
    if importance == "magnitude":
        return {name: np.abs(weight) for name, weight in weights.items()}
    if importance == "activation":
        _need(inputs, names, importance)
        assert inputs is not None
        norms = input_norms(model, inputs, names)
        return {
            name: np.abs(weight) * norms[name].reshape(1, -1, *[1] * (weight.ndim - 2))
            for name, weight in weights.items()
        }
    if losses is None:
        _need(inputs, names, importance)
        assert inputs is not None
        losses = probe_losses(inputs)
    sums = {name: np.zeros(weight.shape) for name, weight in weights.items()}
    count = 0
    for products in gate_products(model, losses):
        count += 1
        for name in sums:
            sums[name] += np.abs(products[f"{name}.weight"])
    return {name: total / max(1, count) for name, total in sums.items()}


def gate_products(model: Model, losses: Losses) -> Iterator[dict[str, Double]]:
    """For each loss w·∂L/∂w of every parameter w, by tensor name.

    Their sum over all that makes up a channel is the derivative of the loss by a factor in front
    of the channel. Yields mappings whose arrays have the parameters' shapes.
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


def probe_losses(inputs: Inputs, seed: int = 0) -> Losses:
    """Losses without labels: the outputs on each image and pair, summed with random signs.

    The mean square of their gradient is how far the outputs move when a weight moves (the diagonal
    of the Gauss–Newton matrix). Probabilities enter as 2·√p, in which distances are those of
    Fisher's information; descriptors at unit length.
    """

    def losses(model: Model) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)

        if model.extractor is not None:
            for image in inputs.images:
                logits, descriptors = model.extractor.forward_raw(image)
                cells = logits.shape[2] * logits.shape[3]
                heat = 2 * (F.log_softmax(logits, 1) / 2).exp()
                alike = F.normalize(descriptors, dim=1)
                yield _probe(heat, cells, generator) + _probe(alike, cells, generator)
        if model.matcher is not None and inputs.sides is not None:
            for i in range(len(inputs.sides[0][0])):
                pair = [part[i : i + 1] for side in inputs.sides for part in side]
                yield probe_assignment(model.matcher, model.matcher(*pair), generator)

    return losses


def probe_assignment(matcher: SuperGlue, scores: Tensor, generator: torch.Generator) -> Tensor:
    """The part of `probe_losses` that is a matcher's, of its scores (B, N0, N1)."""
    assignment = log_optimal_transport(scores, matcher.bin_score, _SINKHORN_ITERATIONS)
    # The rows of keypoints sum to 1; the last corner stands for nothing.
    chances = 2 * (assignment[:, :-1] / 2).exp()
    return _probe(chances, chances.shape[1], generator)


def _probe(output: Tensor, decisions: int, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1
    total: Tensor = (output * signs).sum() / decisions**0.5
    return total


class _Squares:
    """A hook that sums the squares of each channel of what passes."""

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
def input_norms(model: Model, inputs: Inputs, names: Collection[str]) -> dict[str, Double]:
    """The root mean square of every input channel of these layers, (in,) each."""
    wanted = {part for name in names for part in (name, f"{name}.message")}
    squares = _Squares()
    if model.extractor is not None:
        run_extractor(with_hooks(model.extractor, squares, wanted), inputs)
    if model.matcher is not None and inputs.sides is not None:
        run_matcher(with_hooks(model.matcher, squares, wanted), inputs)
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


def _need(inputs: Inputs | None, names: Collection[str], importance: str) -> None:
    if inputs is None:
        raise UsageError(
            f'importance by "{importance}" needs images for calibration; "magnitude" needs none'
        )
    if inputs.sides is None and any(name.startswith("matcher.") for name in names):
        raise UsageError(
            f'a matcher\'s importance by "{importance}" needs the keypoints of its own extractor, '
            'and this model has none; use "magnitude"'
        )
