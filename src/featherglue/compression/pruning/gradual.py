"""Gradual pruning during fine-tuning (Zhu and Gupta, To Prune, or Not to Prune, 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from featherglue.compression.pruning.fine_grained import PruneConfig, layer_ratios
from featherglue.compression.pruning.masks import Masks, weight_parameters
from featherglue.compression.pruning.sparsity_patterns import select_weights
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Schedule of gradual pruning.

    Attributes:
        start: training step at which pruning begins.
        end: training step at which the final ratio is reached.
        every: number of steps between two updates of the masks.
        initial: fraction of the final ratio that is pruned at `start`, in [0, 1].

    Raises:
        ConfigError: a value is out of range.
    """

    end: int
    start: int = 0
    every: int = 100
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ConfigError(f"end must be greater than start = {self.start}, not {self.end}")
        if self.every < 1:
            raise ConfigError(f"every must be at least 1, not {self.every}")
        if not 0 <= self.initial <= 1:
            raise ConfigError(f"initial must be in [0, 1], not {self.initial}")


def pruned_fraction(step: int, config: ScheduleConfig) -> float:
    """Return the fraction of the final ratio that is pruned at a step, in [0, 1]."""
    done = min(1.0, max(0.0, (step - config.start) / (config.end - config.start)))
    return 1 - (1 - config.initial) * (1 - done) ** 3


class GradualMasks:
    """Masks that follow a schedule. Pass `apply_to` to a training loop as its `constraint`.

    Every update ranks the weights by their magnitude at that step. A pruned weight can return at
    the next update, as in the paper. After `schedule.end` the masks stay fixed.

    Args:
        config: what to prune, with the final ratio.
        schedule: when to prune.
        step: training step at which a resumed run continues.

    Raises:
        ConfigError: the importance or the pattern cannot be used with a schedule.
    """

    def __init__(self, config: PruneConfig, schedule: ScheduleConfig, step: int = 0) -> None:
        if config.importance != "magnitude":
            raise ConfigError('a gradual schedule requires importance "magnitude"')
        if ":" in config.pattern:
            raise ConfigError("an N:M pattern has no schedule: prune in one step, then fine-tune")
        self.config, self.schedule, self.step = config, schedule, step
        self.masks: Masks | None = None

    def apply_to(self, network: nn.Module) -> None:
        """Set the masked weights of a network to zero, in place.

        A call for a network in training mode counts one step and updates the masks when an update
        is due. A call for a network in evaluation mode, such as the averaged copy, only applies
        the current masks.
        """
        if network.training:
            self.step += 1
            started = self.step >= self.schedule.start
            if started and (self.masks is None or self._update_is_due()):
                self.masks = self._compute_masks(network)
        if self.masks is not None:
            self.masks.apply_to(network)

    def _update_is_due(self) -> bool:
        on_time = (self.step - self.schedule.start) % self.schedule.every == 0
        return self.step == self.schedule.end or (
            self.schedule.start <= self.step < self.schedule.end and on_time
        )

    def _compute_masks(self, network: nn.Module) -> Masks:
        # A resumed run repeats the masks of the last update before it was stopped.
        at = max(self.step, self.schedule.start)
        late = (at - self.schedule.start) % self.schedule.every if at < self.schedule.end else 0
        fraction = pruned_fraction(at - late, self.schedule)
        config = replace(
            self.config,
            ratio=self.config.ratio * fraction,
            ratios={glob: ratio * fraction for glob, ratio in self.config.ratios.items()},
        )
        ratios = layer_ratios(architecture_of(network), config)
        scores = {
            name: weight.detach().abs().double().cpu().numpy()
            for name, weight in weight_parameters(network)
            if name in ratios
        }
        return select_weights(scores, {name: ratios[name] for name in scores}, config)


def architecture_of(network: nn.Module) -> ArchitectureConfig:
    """Return the architecture of the extractor and matcher that a module is or contains."""
    parts = list(network.modules())
    extractors = [part.config for part in parts if isinstance(part, SuperPoint)]
    matchers = [part.config for part in parts if isinstance(part, SuperGlue)]
    return ArchitectureConfig(
        extractor=extractors[0] if extractors else None, matcher=matchers[0] if matchers else None
    )
