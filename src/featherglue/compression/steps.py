"""The kinds of steps that a recipe can have, each with a name, a version and a configuration.

A step is checked against the architecture that those before it leave, before any of them works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.layers import layers
from featherglue.compression.calibration import Grey, Inputs
from featherglue.compression.layer_selection import select
from featherglue.compression.match_threshold import ThresholdConfig, choose_threshold
from featherglue.compression.pruning.fine_grained import PruneConfig, layer_ratios, prune
from featherglue.compression.pruning.gradual import GradualMasks, ScheduleConfig
from featherglue.compression.pruning.importance import Losses
from featherglue.compression.quantization.codebook import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import (
    LinearConfig,
    linear_targets,
    quantize_linear,
)
from featherglue.compression.structured.channels import (
    ChannelConfig,
    StructureConfig,
    channel_sizes,
    prune_channels,
    prune_structure,
    structure_sizes,
)
from featherglue.compression.structured.groups import WIDTH, resized
from featherglue.compression.structured.mac_budget import MacsConfig, check_macs, prune_to_macs
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model


@dataclass(frozen=True, kw_only=True)
class FoldConfig:
    """Fold batch normalisation into the layers before it, so that it is quantized with them."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Train what the steps before have left, with masks and codes held.

    What it does is up to the function that `recipe.compress` is given for it.

    Attributes:
        network: which is trained.
        settings: for that function, plain values.
        prune, schedule: what is pruned on the way, more and more; both or neither.
    """

    network: Literal["extractor", "matcher", "both"] = "both"
    settings: dict[str, Any] = field(default_factory=dict)
    prune: PruneConfig | None = None
    schedule: ScheduleConfig | None = None

    def __post_init__(self) -> None:
        if (self.prune is None) != (self.schedule is None):
            raise ConfigError("prune and schedule go together: what is pruned on the way, and when")
        self.gradual()

    def gradual(self, step: int = 0) -> GradualMasks | None:
        """The masks that grow from a step on, if something is pruned on the way."""
        if self.prune is None or self.schedule is None:
            return None
        return GradualMasks(self.prune, self.schedule, step)


# The model, what is asked for, and what the model was before its weights were rounded to whole
# numbers, folded, where nothing else was done since.
Finetune = Callable[[Model, FinetuneConfig, "Model | None"], Model]


@dataclass(frozen=True, kw_only=True, eq=False)
class Means:
    """What steps work with.

    Attributes:
        inputs: gives what a model is calibrated on, or None where there are no images.
        losses: for importance by "taylor", see `importance.Losses`.
        finetune: does the steps of that kind.
        original: what it is to be told, see `Finetune`.
        start: the model that the recipe began with.
        photographs: (H, W) grey uint8 each, and the (width, height) at which they are looked at.
    """

    inputs: Callable[[Model], Inputs | None]
    losses: Losses | None = None
    finetune: Finetune | None = None
    original: Model | None = None
    start: Model | None = None
    photographs: Sequence[Grey] = ()
    size: tuple[int, int] = (640, 480)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known of a model before it is made: its architecture, as far as names are concerned,
    and whether something of it is quantized."""

    architecture: ArchitectureConfig
    quantized: bool = False


@dataclass(frozen=True)
class StepKind:
    """A kind of step.

    Attributes:
        version: of its configuration and of what it does; another one is refused.
        config: the class of its configuration.
        run: model, configuration, means → new model.
        check: what the step leaves; raises ConfigError or UsageError where it cannot work.
        images: whether a step with this configuration needs images for calibration.
    """

    name: str
    config: type[Any]
    run: Callable[[Model, Any, Means], Model]
    check: Callable[[Expected, Any], Expected]
    images: Callable[[Any, Means], bool] = lambda config, means: False
    version: int = 1


def _unquantized(before: Expected) -> ArchitectureConfig:
    if before.quantized:
        raise UsageError("what is quantized cannot be pruned: put this step before")
    return before.architecture


def _check_prune(before: Expected, config: PruneConfig) -> Expected:
    layer_ratios(_unquantized(before), config)
    return before


def _check_channels(before: Expected, config: ChannelConfig) -> Expected:
    architecture = _unquantized(before)
    return replace(before, architecture=resized(architecture, channel_sizes(architecture, config)))


def _check_structure(before: Expected, config: StructureConfig) -> Expected:
    architecture, sizes = structure_sizes(_unquantized(before), config)
    return replace(before, architecture=resized(architecture, sizes))


def _check_macs(before: Expected, config: MacsConfig) -> Expected:
    return replace(before, architecture=check_macs(_unquantized(before), config))


def _check_linear(before: Expected, config: LinearConfig) -> Expected:
    if before.quantized and _has_norm(before.architecture):
        raise UsageError(
            "batch normalisation cannot be folded once its layers are quantized: add a step "
            '"fold" before them, or quantize linearly first'
        )
    architecture = _folded(before.architecture)
    every, usual = linear_targets(architecture)
    select(every, usual, config.include, config.exclude)
    needed = config.activation_bits or config.correct_bias
    if needed and architecture.extractor is None:
        raise UsageError(
            "a matcher alone cannot be calibrated: quantize its weights only, with "
            "activation_bits = 0 and correct_bias = false"
        )
    return Expected(architecture=architecture, quantized=True)


def _check_codebook(before: Expected, config: CodebookConfig) -> Expected:
    names = [layer.name for layer in layers(before.architecture)]
    select(names, names, config.include, config.exclude)
    return replace(before, quantized=True)


def _check_fold(before: Expected, config: FoldConfig) -> Expected:
    if before.quantized and _has_norm(before.architecture):
        raise UsageError("batch normalisation cannot be folded into what is quantized: fold before")
    return replace(before, architecture=_folded(before.architecture))


def _check_finetune(before: Expected, config: FinetuneConfig) -> Expected:
    wanted = ("extractor", "matcher") if config.network == "both" else (config.network,)
    for name in wanted:
        if getattr(before.architecture, name) is None:
            raise ConfigError(f"this model has no {name} to fine-tune")
    if config.prune is not None:
        chosen = layer_ratios(_unquantized(before), config.prune)
        foreign = [name for name in chosen if name.split(".")[0] not in wanted]
        if foreign:
            raise ConfigError(
                f"{foreign[0]} would be pruned, and {config.network} alone is trained: "
                "name what is pruned with `include`"
            )
    return before


def _check_threshold(before: Expected, config: ThresholdConfig) -> Expected:
    if before.architecture.extractor is None or before.architecture.matcher is None:
        raise ConfigError("a match threshold is chosen for an extractor and a matcher together")
    return before


def _run_threshold(model: Model, config: ThresholdConfig, means: Means) -> Model:
    assert means.start is not None
    return choose_threshold(model, means.start, means.photographs, means.size, config)


def _run_finetune(model: Model, config: FinetuneConfig, means: Means) -> Model:
    assert means.finetune is not None
    return means.finetune(model, config, means.original)


def _has_norm(architecture: ArchitectureConfig) -> bool:
    parts = (architecture.extractor, architecture.matcher)
    return any(part is not None and part.batch_norm for part in parts)


def _folded(old: ArchitectureConfig) -> ArchitectureConfig:
    return ArchitectureConfig(
        extractor=old.extractor and replace(old.extractor, batch_norm=False),
        matcher=old.matcher and replace(old.matcher, batch_norm=False),
    )


def _by_importance(
    config: PruneConfig | ChannelConfig | StructureConfig | MacsConfig, means: Means
) -> bool:
    taylor = config.importance == "taylor" and means.losses is None
    return taylor or config.importance == "activation"


def _sees_features(config: ChannelConfig | StructureConfig | MacsConfig) -> bool:
    """Whether images, where there are any, show what a step looks at."""
    if isinstance(config, StructureConfig):
        return bool(config.width or config.layers)
    if isinstance(config, ChannelConfig):
        return any(fnmatchcase(WIDTH, glob) for glob in config.include)
    return True


def _pruned(how: Callable[..., Model]) -> Callable[[Model, Any, Means], Model]:
    """A run that takes inputs, where they are of use, and losses."""

    def run(model: Model, config: Any, means: Means) -> Model:
        wanted = _by_importance(config, means)
        wanted = wanted or (not isinstance(config, PruneConfig) and _sees_features(config))
        return how(model, config, means.inputs(model) if wanted else None, means.losses)

    return run


def _is_calibrated(config: LinearConfig, means: Means) -> bool:
    del means
    return bool(config.activation_bits or config.correct_bias)


def _run_linear(model: Model, config: LinearConfig, means: Means) -> Model:
    inputs = means.inputs(model) if _is_calibrated(config, means) else None
    return quantize_linear(model, config, inputs)


def _run_codebook(model: Model, config: CodebookConfig, means: Means) -> Model:
    del means
    return quantize_codebook(model, config)


def _run_fold(model: Model, config: FoldConfig, means: Means) -> Model:
    del config, means
    return folded(model)


def folded(model: Model) -> Model:
    """The model with batch normalisation folded."""
    made = Model.from_artifact(fold_batch_norm(model.to_artifact()))
    return replace(made, provenance=model.provenance)


KINDS: Mapping[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind("prune", PruneConfig, _pruned(prune), _check_prune, _by_importance),
        StepKind(
            "channels", ChannelConfig, _pruned(prune_channels), _check_channels, _by_importance
        ),
        StepKind(
            "structure", StructureConfig, _pruned(prune_structure), _check_structure, _by_importance
        ),
        StepKind("macs", MacsConfig, _pruned(prune_to_macs), _check_macs, _by_importance),
        StepKind("fold", FoldConfig, _run_fold, _check_fold),
        StepKind("linear", LinearConfig, _run_linear, _check_linear, _is_calibrated),
        StepKind("codebook", CodebookConfig, _run_codebook, _check_codebook),
        StepKind("finetune", FinetuneConfig, _run_finetune, _check_finetune),
        StepKind(
            "threshold",
            ThresholdConfig,
            _run_threshold,
            _check_threshold,
            lambda config, means: True,
        ),
    )
}


def kind_of(config: Any) -> StepKind:
    """The kind of step that has this configuration. Raises ConfigError where there is none."""
    for kind in KINDS.values():
        if isinstance(config, kind.config):
            return kind
    known: Sequence[str] = [kind.config.__name__ for kind in KINDS.values()]
    raise ConfigError(f"{type(config).__name__} is no step; there are {', '.join(known)}")
