"""Fine-grained pruning: set the least important weights to zero.

Han et al., Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015. The
sparsity patterns are N:M (Mishra et al., Accelerating Sparse Deep Neural Networks, 2021) and
blocks of channels (Elsen et al., Fast Sparse ConvNets, CVPR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from featherglue.artifact.layers import layers
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.pruning.importance import Importance, Losses, weight_scores
from featherglue.compression.pruning.masks import Masks
from featherglue.compression.pruning.sparsity_patterns import Pattern, select_weights
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model

Scope = Literal["layer", "row", "global"]


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Settings of fine-grained pruning.

    Attributes:
        ratio: fraction of zero weights after pruning, in [0, 1). Existing zeros count.
        ratios: ratios of single layers, by glob. The last glob that matches a layer applies. These
            layers are left out of a "global" comparison. See `sensitivity.allocation.allocate`.
        scope: the set in which weights are compared and to which the ratio applies: one "layer",
            one output channel ("row", as in Wanda), or all selected layers together ("global").
        importance: importance of a weight; see the module `importance`.
        pattern: "" prunes single weights. "N:M" keeps N of every M consecutive inputs and
            determines the ratio; by default it applies to the layers whose number of inputs is a
            multiple of M. "Bx1" prunes blocks of B output channels at one input, and "1xB" blocks
            of B input channels of one output.
        include: globs of layer names to prune. Empty selects all layers.
        exclude: globs of layer names to leave out.

    Raises:
        ConfigError: a value is out of range, or settings exclude each other.
    """

    ratio: float = 0.5
    ratios: dict[str, float] = field(default_factory=dict)
    scope: Scope = "layer"
    importance: Importance = "magnitude"
    pattern: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, ratio in (("ratio", self.ratio), *self.ratios.items()):
            if not 0 <= ratio < 1:
                raise ConfigError(f"{name}: a ratio must be in [0, 1), not {ratio}")
        pattern = Pattern.parse(self.pattern)
        if pattern.group and self.scope != "layer":
            raise ConfigError(f'pattern {self.pattern} requires scope "layer", not "{self.scope}"')
        if pattern.group and self.ratios:
            raise ConfigError(f"pattern {self.pattern} determines the ratio; leave `ratios` empty")


def prune(
    model: Model,
    config: PruneConfig,
    calibration: CalibrationData | None = None,
    losses: Losses | None = None,
) -> Model:
    """Return a copy of the model with the least important weights set to zero.

    Args:
        calibration: required by importance "activation", and by "taylor" without `losses`.
        losses: losses for importance "taylor".

    Raises:
        ConfigError: a glob matches no layer, or the pattern does not fit a layer.
        UsageError: the model is quantized, or calibration data is missing.
    """
    return compute_masks(model, config, calibration, losses).apply(model)


def compute_masks(
    model: Model,
    config: PruneConfig,
    calibration: CalibrationData | None = None,
    losses: Losses | None = None,
) -> Masks:
    """Return the masks that `prune` applies. Arguments and errors are those of `prune`."""
    require_unquantized(model)
    ratios = layer_ratios(model.architecture, config)
    scores = weight_scores(model, list(ratios), config.importance, calibration, losses)
    return select_weights(scores, ratios, config)


def require_unquantized(model: Model) -> None:
    """Raise UsageError if any weight or activation of the model is quantized."""
    if model.quantization.tensors or model.quantization.activations:
        raise UsageError("a quantized model cannot be pruned: prune first, then quantize")


def layer_ratios(architecture: ArchitectureConfig, config: PruneConfig) -> dict[str, float]:
    """Return the pruning ratio of each selected layer, in network order.

    Raises:
        ConfigError: a glob matches no layer, or the pattern does not fit a selected layer.
    """
    input_sizes = {layer.name: layer.shape[1] for layer in layers(architecture)}
    names = list(input_sizes)
    pattern = Pattern.parse(config.pattern)
    default, ratio = names, config.ratio
    if pattern.group:
        default = [name for name in names if input_sizes[name] % pattern.group == 0]
        ratio = 1 - pattern.keep / pattern.group
    selected = select_layers(names, default, config.include, config.exclude)
    for name in selected:
        if pattern.group and input_sizes[name] % pattern.group:
            raise ConfigError(
                f"{name} has {input_sizes[name]} inputs, which is not a multiple of "
                f"{pattern.group}; add it to `exclude`"
            )
    ratios = dict.fromkeys(selected, ratio)
    for glob, layer_ratio in config.ratios.items():
        for name in select_layers(selected, selected, (glob,), ()):
            ratios[name] = layer_ratio
    return ratios
