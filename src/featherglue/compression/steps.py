"""The kinds of recipe steps: for each one its name, version, configuration, check and function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from featherglue.artifact.folding import fold_batch_norm
from featherglue.compression import step_checks
from featherglue.compression.match_threshold import ThresholdConfig, choose_threshold
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.step_types import (
    FinetuneConfig,
    FoldConfig,
    ModelState,
    StepContext,
    StepKind,
    StepResult,
)
from featherglue.compression.structured.channels import (
    ChannelConfig,
    StructureConfig,
    prune_channels,
    prune_structure,
)
from featherglue.compression.structured.groups import WIDTH
from featherglue.compression.structured.mac_budget import MacsConfig, prune_to_macs
from featherglue.config import to_dict
from featherglue.errors import ConfigError
from featherglue.models.model import Model

_Pruning = PruneConfig | ChannelConfig | StructureConfig | MacsConfig


def fold(model: Model) -> Model:
    """Return a copy of the model with batch normalization folded into the preceding layers."""
    folded = Model.from_artifact(fold_batch_norm(model.to_artifact()))
    return replace(folded, provenance=model.provenance)


def step_record(config: Any) -> dict[str, Any]:
    """Return a step as plain values: its name, its version and its settings except None."""
    kind = kind_of(config)
    settings = {key: value for key, value in to_dict(config).items() if value is not None}
    return {"step": kind.name, "version": kind.version, **settings}


def kind_of(config: Any) -> StepKind:
    """Return the kind of step of a configuration. Raises ConfigError if there is none."""
    for kind in STEP_KINDS.values():
        if isinstance(config, kind.config):
            return kind
    known = ", ".join(kind.config.__name__ for kind in STEP_KINDS.values())
    raise ConfigError(f"{type(config).__name__} is not a recipe step; the steps are {known}")


def _result(model: Model, config: Any) -> StepResult:
    return StepResult(model, (step_record(config),))


def _pruning(function: Callable[..., Model]) -> Callable[[Model, Any, StepContext], StepResult]:
    """Return the function of a step that prunes."""

    def run(model: Model, config: Any, context: StepContext) -> StepResult:
        calibrated = _importance_needs_images(config, context) or _measures_features(config)
        calibration = context.calibrate(model) if calibrated else None
        return _result(function(model, config, calibration, context.losses), config)

    return run


def _importance_needs_images(config: _Pruning, context: StepContext) -> bool:
    taylor = config.importance == "taylor" and context.losses is None
    return taylor or config.importance == "activation"


def _pruning_uses_images(config: _Pruning) -> bool:
    return config.importance in ("taylor", "activation") or _measures_features(config)


def _measures_features(config: _Pruning) -> bool:
    """Return whether a step measures features on calibration images if there are any."""
    if isinstance(config, PruneConfig):
        return False
    if isinstance(config, StructureConfig):
        return bool(config.width or config.layers)
    if isinstance(config, ChannelConfig):
        return any(fnmatchcase(WIDTH, glob) for glob in config.include)
    return True


def _fold(model: Model, config: FoldConfig, context: StepContext) -> StepResult:
    del context
    return _result(fold(model), config)


def _linear_uses_images(config: LinearConfig) -> bool:
    return bool(config.activation_bits or config.correct_bias)


def _linear_needs_images(config: LinearConfig, context: StepContext) -> bool:
    del context
    return _linear_uses_images(config)


def _linear(model: Model, config: LinearConfig, context: StepContext) -> StepResult:
    calibration = context.calibrate(model) if _linear_uses_images(config) else None
    return _result(quantize_linear(model, config, calibration), config)


def _codebook(model: Model, config: CodebookConfig, context: StepContext) -> StepResult:
    del context
    return _result(quantize_codebook(model, config), config)


def _finetune(model: Model, config: FinetuneConfig, context: StepContext) -> StepResult:
    assert context.finetune is not None
    return context.finetune(model, config, context.unquantized)


def _threshold(model: Model, config: ThresholdConfig, context: StepContext) -> StepResult:
    assert context.start is not None
    images, size = context.images, context.image_size
    return _result(choose_threshold(model, context.start, images, size, config), config)


def _pruning_kind(
    name: str,
    config: type[_Pruning],
    function: Callable[..., Model],
    check: Callable[[ModelState, Any], ModelState],
    *,
    version: int = 1,
    renamed: Mapping[str, str] | None = None,
) -> StepKind:
    """Return the kind of a step that prunes; see `StepKind`.

    Args:
        function: prunes a model, given the configuration, calibration data and losses.
    """
    return StepKind(
        name=name,
        config=config,
        run=_pruning(function),
        check=check,
        needs_images=_importance_needs_images,
        uses_images=_pruning_uses_images,
        version=version,
        renamed=renamed or {},
    )


STEP_KINDS: Mapping[str, StepKind] = {
    kind.name: kind
    for kind in (
        _pruning_kind("prune", PruneConfig, prune, step_checks.check_prune),
        _pruning_kind("channels", ChannelConfig, prune_channels, step_checks.check_channels),
        _pruning_kind("structure", StructureConfig, prune_structure, step_checks.check_structure),
        _pruning_kind(
            "macs",
            MacsConfig,
            prune_to_macs,
            step_checks.check_mac_budget,
            version=3,
            renamed={
                "keypoints": "num_keypoints",
                "least": "min_fraction",
                "min_share": "min_fraction",
                "share": "budget",
            },
        ),
        StepKind(name="fold", config=FoldConfig, run=_fold, check=step_checks.check_fold),
        StepKind(
            name="linear",
            config=LinearConfig,
            run=_linear,
            check=step_checks.check_linear,
            needs_images=_linear_needs_images,
            uses_images=_linear_uses_images,
        ),
        StepKind(
            name="codebook", config=CodebookConfig, run=_codebook, check=step_checks.check_codebook
        ),
        StepKind(
            name="finetune", config=FinetuneConfig, run=_finetune, check=step_checks.check_finetune
        ),
        StepKind(
            name="threshold",
            config=ThresholdConfig,
            run=_threshold,
            check=step_checks.check_threshold,
            needs_images=lambda config, context: True,
            uses_images=lambda config: True,
            version=2,
            renamed={
                "pairs": "num_pairs",
                "lowest": "min_threshold",
                "highest": "max_threshold",
            },
        ),
    )
}
