"""Checks of recipe steps against the state that the preceding steps leave.

Each check returns the state after its step. It raises ConfigError or UsageError if the step does
not fit the model or cannot follow the preceding ones.
"""

from __future__ import annotations

from dataclasses import replace

from featherglue.artifact.layers import layers
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.match_threshold import ThresholdConfig
from featherglue.compression.pruning.fine_grained import PruneConfig, layer_ratios
from featherglue.compression.quantization.kmeans import CodebookConfig
from featherglue.compression.quantization.linear import LinearConfig
from featherglue.compression.quantization.linear_targets import linear_targets
from featherglue.compression.step_types import FinetuneConfig, FoldConfig, ModelState
from featherglue.compression.structured.channels import (
    ChannelConfig,
    StructureConfig,
    channel_sizes,
    structure_sizes,
)
from featherglue.compression.structured.groups import resized
from featherglue.compression.structured.mac_budget import MacsConfig, check_macs
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError, UsageError


def check_prune(state: ModelState, config: PruneConfig) -> ModelState:
    """Check a step "prune"."""
    layer_ratios(_unquantized(state), config)
    return state


def check_channels(state: ModelState, config: ChannelConfig) -> ModelState:
    """Check a step "channels"."""
    architecture = _unquantized(state)
    return replace(state, architecture=resized(architecture, channel_sizes(architecture, config)))


def check_structure(state: ModelState, config: StructureConfig) -> ModelState:
    """Check a step "structure"."""
    architecture, sizes = structure_sizes(_unquantized(state), config)
    return replace(state, architecture=resized(architecture, sizes))


def check_mac_budget(state: ModelState, config: MacsConfig) -> ModelState:
    """Check a step "macs"."""
    return replace(state, architecture=check_macs(_unquantized(state), config))


def check_linear(state: ModelState, config: LinearConfig) -> ModelState:
    """Check a step "linear"."""
    if state.quantized and _has_batch_norm(state.architecture):
        raise UsageError(
            "batch normalization cannot be folded into quantized layers: add a step "
            '"fold" before they are quantized, or quantize linearly first'
        )
    architecture = _without_batch_norm(state.architecture)
    names, default = linear_targets(architecture)
    select_layers(names, default, config.include, config.exclude)
    calibrated = config.activation_bits or config.correct_bias
    if calibrated and architecture.extractor is None:
        raise UsageError(
            "a matcher without an extractor cannot be calibrated: quantize only its weights, with "
            "activation_bits = 0 and correct_bias = false"
        )
    return ModelState(architecture=architecture, quantized=True)


def check_codebook(state: ModelState, config: CodebookConfig) -> ModelState:
    """Check a step "codebook"."""
    names = [layer.name for layer in layers(state.architecture)]
    select_layers(names, names, config.include, config.exclude)
    return replace(state, quantized=True)


def check_fold(state: ModelState, config: FoldConfig) -> ModelState:
    """Check a step "fold"."""
    del config
    if state.quantized and _has_batch_norm(state.architecture):
        raise UsageError("batch normalization cannot be folded into quantized layers: fold first")
    return replace(state, architecture=_without_batch_norm(state.architecture))


def check_finetune(state: ModelState, config: FinetuneConfig) -> ModelState:
    """Check a step "finetune"."""
    trained = ("extractor", "matcher") if config.network == "both" else (config.network,)
    for name in trained:
        if getattr(state.architecture, name) is None:
            raise ConfigError(f"this model has no {name} to fine-tune")
    if config.prune is not None:
        selected = layer_ratios(_unquantized(state), config.prune)
        untrained = [name for name in selected if name.split(".")[0] not in trained]
        if untrained:
            raise ConfigError(
                f"prune selects {untrained[0]}, but only the {config.network} is trained; "
                "restrict prune with `include`"
            )
    return state


def check_threshold(state: ModelState, config: ThresholdConfig) -> ModelState:
    """Check a step "threshold"."""
    del config
    if state.architecture.extractor is None or state.architecture.matcher is None:
        raise ConfigError("choosing a match threshold requires an extractor and a matcher")
    return state


def _unquantized(state: ModelState) -> ArchitectureConfig:
    if state.quantized:
        raise UsageError("a quantized model cannot be pruned: move this step before quantization")
    return state.architecture


def _has_batch_norm(architecture: ArchitectureConfig) -> bool:
    networks = (architecture.extractor, architecture.matcher)
    return any(network is not None and network.batch_norm for network in networks)


def _without_batch_norm(architecture: ArchitectureConfig) -> ArchitectureConfig:
    extractor, matcher = architecture.extractor, architecture.matcher
    return ArchitectureConfig(
        extractor=extractor and replace(extractor, batch_norm=False),
        matcher=matcher and replace(matcher, batch_norm=False),
    )
