"""Names of the layers and products that linear quantization applies to."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from featherglue.artifact.layers import (
    ENCODER,
    context_levels,
    context_names,
    layers,
    product_names,
)
from featherglue.compression.layer_selection import match_globs
from featherglue.config import ArchitectureConfig

if TYPE_CHECKING:
    from featherglue.compression.quantization.linear import LinearConfig

# The first and last layers of both networks. They stay floats unless they are selected.
END_LAYERS = (
    "extractor.conv1a",
    "extractor.convPb",
    "extractor.convDb",
    "matcher.input_proj",
    "matcher.kenc.encoder.0",
    "matcher.final_proj",
)


def linear_targets(architecture: ArchitectureConfig) -> tuple[list[str], list[str]]:
    """Return all names that can be quantized, and the names that are quantized by default.

    The first and last layers of both networks, the products of attention, the similarity matrix
    and the input of Sinkhorn are not quantized by default.
    """
    names = [layer.name for layer in layers(architecture)]
    default = [name for name in names if name not in END_LAYERS]
    if architecture.matcher is not None:
        names += product_names(architecture.matcher)
    return names, default


def sensitive_targets(architecture: ArchitectureConfig, config: LinearConfig) -> list[str]:
    """Return the names that a wildcard of `include` selects although they are not a default.

    They are sensitive to quantization. Names that `include` spells out are not returned. Products
    count only if activations are quantized, because they have no weights.
    """
    names, default = linear_targets(architecture)
    weights = {layer.name for layer in layers(architecture)}
    affected = [name for name in names if config.activation_bits or name in weights]
    selected = match_globs(affected, config.include, config.exclude)
    return [name for name in selected if name not in default and name not in config.include]


def activations_of(architecture: ArchitectureConfig, selected: Collection[str]) -> list[str]:
    """Return the names of the activations to quantize for some layers and products.

    An integer convolution needs an integer output too. So the inputs of the layers that follow it
    are quantized as well.
    """
    levels = len(context_levels(architecture.extractor)) if architecture.extractor else 0
    names: list[str] = []
    for name in selected:
        if name.endswith(".attn.scores"):
            names += [f"{name}.query", f"{name}.key"]
        elif name.endswith(".attn.message"):
            names += [f"{name}.weights", f"{name}.value"]
        else:
            names.append(name)
        if ".gnn." in name and name.endswith(".mlp.0"):
            names.append(f"{name}.message")
        if name.startswith("extractor."):
            names += _consumers(name, levels)
    return list(dict.fromkeys(names))


def _consumers(name: str, levels: int) -> list[str]:
    """Return the activations that the output of a convolution becomes.

    Args:
        levels: number of levels of the context branch. The output of a projection is only added
            to another output, so it becomes none.
    """
    own = name.removeprefix("extractor.conv")
    if own in ENCODER[:-1]:
        return [f"extractor.conv{ENCODER[ENCODER.index(own) + 1]}"]
    after: dict[str, tuple[str, ...]] = {"Pa": ("convPb",), "Da": ("convDb",)}
    after["4b"] = ("convPa", "convC1a" if levels else "convDa")
    for level in range(1, levels + 1):
        first, second, projection = context_names(level)
        next_layer = context_names(level + 1)[0] if level < levels else projection
        after |= {first: (f"conv{second}",), second: (f"conv{next_layer}",), projection: ()}
    return [f"extractor.{consumer}" for consumer in after.get(own, (f"conv{own}.output",))]
