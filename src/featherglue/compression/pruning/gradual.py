"""Gradual pruning while a network is fine-tuned (Zhu, Gupta: To Prune, or Not to Prune, 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from featherglue.compression.pruning.fine_grained import PruneConfig, layer_ratios, masks_for
from featherglue.compression.pruning.masks import Masks, trained_weights
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """When how much is pruned.

    Attributes:
        start, end: steps between which the ratio rises. every: steps from mask to mask.
        initial: share of each final ratio that is pruned at `start`, in [0, 1].
    """

    end: int
    start: int = 0
    every: int = 100
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ConfigError(f"a schedule ends after it starts, not at {self.end}")
        if self.every < 1:
            raise ConfigError(f"every must be at least 1, not {self.every}")
        if not 0 <= self.initial <= 1:
            raise ConfigError(f"initial must lie in [0, 1], not {self.initial}")


def cubic_share(step: int, config: ScheduleConfig) -> float:
    """The share of the final ratio that is pruned at a step: fast at first, slow at the end."""
    done = min(1.0, max(0.0, (step - config.start) / (config.end - config.start)))
    return 1 - (1 - config.initial) * (1 - done) ** 3


class GradualMasks:
    """Masks that grow along a schedule: give `hold` to a training loop as its `constraint`.

    The weights are ranked by magnitude as they are at that step. A weight that is pruned stays so
    unless others have become smaller by the next mask, as in the paper; after the last one
    the masks stand.
    """

    def __init__(self, config: PruneConfig, schedule: ScheduleConfig, step: int = 0) -> None:
        """Args:
            step: where a resumed run goes on.

        Raises:
            ConfigError: an importance or pattern that cannot be followed while weights change.
        """
        if config.importance != "magnitude":
            raise ConfigError("a gradual schedule ranks weights by magnitude; choose that")
        if ":" in config.pattern:
            raise ConfigError("an N:M pattern is all or nothing; prune at once, then fine-tune")
        self.config, self.schedule, self.step = config, schedule, step
        self.masks: Masks | None = None

    def hold(self, network: nn.Module) -> None:
        """Count a step where the network is being trained, renew the masks when it is time, and
        set the masked weights to 0 in place. The averaged copy, in evaluation mode, only gets
        them."""
        if network.training:
            self.step += 1
            begun = self.step >= self.schedule.start
            if begun and (self.masks is None or self._is_due()):
                self.masks = self._masks(network)
        if self.masks is not None:
            self.masks.hold(network)

    def _is_due(self) -> bool:
        on_time = (self.step - self.schedule.start) % self.schedule.every == 0
        return self.step == self.schedule.end or (
            self.schedule.start <= self.step < self.schedule.end and on_time
        )

    def _masks(self, network: nn.Module) -> Masks:
        at = max(self.step, self.schedule.start)
        late = (at - self.schedule.start) % self.schedule.every if at < self.schedule.end else 0
        share = cubic_share(at - late, self.schedule)
        config = replace(
            self.config,
            ratio=self.config.ratio * share,
            ratios={glob: ratio * share for glob, ratio in self.config.ratios.items()},
        )
        ratios = layer_ratios(architecture_of(network), config)
        scores = {
            name: weight.detach().abs().double().cpu().numpy()
            for name, weight in trained_weights(network)
            if name in ratios
        }
        return masks_for(scores, {name: ratios[name] for name in scores}, config)


def architecture_of(network: nn.Module) -> ArchitectureConfig:
    """The sizes of the networks that a module is or holds."""
    parts = list(network.modules())
    points = [part.config for part in parts if isinstance(part, SuperPoint)]
    glues = [part.config for part in parts if isinstance(part, SuperGlue)]
    return ArchitectureConfig(
        extractor=points[0] if points else None, matcher=glues[0] if glues else None
    )
