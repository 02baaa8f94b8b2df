"""What a recipe step receives and returns, and how a kind of step is described."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from featherglue.compression.calibration import CalibrationData
from featherglue.compression.pruning.fine_grained import PruneConfig
from featherglue.compression.pruning.gradual import GradualMasks, ScheduleConfig
from featherglue.compression.pruning.importance import Losses
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError
from featherglue.io.gray import Gray
from featherglue.models.model import Model


@dataclass(frozen=True)
class StepResult:
    """What a recipe step returns.

    Attributes:
        model: the new model. `compress` ignores its provenance.
        record: what the step did, as plain mappings with the key "step", for the provenance of the
            model. Most steps have one mapping: their configuration.
    """

    model: Model
    record: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class FoldConfig:
    """Fold batch normalization into the preceding layers."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Train the model, with pruning masks and codebook indices fixed.

    The function `finetune` that is passed to `compress` defines the training.

    Attributes:
        network: which networks are trained.
        settings: plain values for the training function.
        prune: what to prune gradually during training; requires `schedule`.
        schedule: when to prune; requires `prune`.

    Raises:
        ConfigError: only one of `prune` and `schedule` is set, or they do not fit each other.
    """

    network: Literal["extractor", "matcher", "both"] = "both"
    settings: dict[str, Any] = field(default_factory=dict)
    prune: PruneConfig | None = None
    schedule: ScheduleConfig | None = None

    def __post_init__(self) -> None:
        if (self.prune is None) != (self.schedule is None):
            raise ConfigError("prune and schedule require each other: set both or neither")
        self.gradual_masks()

    def gradual_masks(self, step: int = 0) -> GradualMasks | None:
        """Return the masks of gradual pruning, starting at a training step, or None."""
        if self.prune is None or self.schedule is None:
            return None
        return GradualMasks(self.prune, self.schedule, step)


# Arguments: the model, the configuration, and the folded model before linear quantization if
# nothing but quantization was done since.
Finetune = Callable[[Model, FinetuneConfig, "Model | None"], StepResult]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepContext:
    """What recipe steps may use besides their configuration.

    Attributes:
        calibrate: returns the calibration data of a model, or None if there are no images.
        losses: losses for importance "taylor"; see `importance.Losses`.
        finetune: performs the steps "finetune".
        unquantized: the folded model before linear quantization; see `Finetune`.
        start: the model that the recipe started from.
        images: calibration photographs, (H, W) uint8.
        image_size: (width, height) in pixels to which the photographs are resized.
    """

    calibrate: Callable[[Model], CalibrationData | None]
    losses: Losses | None = None
    finetune: Finetune | None = None
    unquantized: Model | None = None
    start: Model | None = None
    images: Sequence[Gray] = ()
    image_size: tuple[int, int] = (640, 480)


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """The state of a model after some steps, as far as known before they run.

    Attributes:
        architecture: architecture, which determines the names of layers.
        quantized: whether any part of the model is quantized.
    """

    architecture: ArchitectureConfig
    quantized: bool = False


def needs_no_images(config: Any, context: StepContext) -> bool:
    """Return False: the step never requires calibration images."""
    del config, context
    return False


def uses_no_images(config: Any) -> bool:
    """Return False: the step never uses calibration images."""
    del config
    return False


@dataclass(frozen=True, kw_only=True)
class StepKind:
    """A kind of recipe step.

    Attributes:
        name: name in recipes.
        config: class of the configuration.
        run: performs the step.
        check: returns the state after the step. Raises ConfigError or UsageError if the step
            cannot be performed.
        needs_images: whether a configuration requires calibration images.
        uses_images: whether a configuration uses calibration images if there are any.
        version: version of the configuration and of the method.
        renamed: keys of earlier versions → their current names.
    """

    name: str
    config: type[Any]
    run: Callable[[Model, Any, StepContext], StepResult]
    check: Callable[[ModelState, Any], ModelState]
    needs_images: Callable[[Any, StepContext], bool] = needs_no_images
    uses_images: Callable[[Any], bool] = uses_no_images
    version: int = 1
    renamed: Mapping[str, str] = field(default_factory=dict)
