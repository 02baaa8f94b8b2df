"""Groups of units that structured pruning can remove.

| group | units |
|---|---|
| `extractor.conv1a` … `extractor.convDa` | output channels, with the inputs of the next layers |
| `extractor.convC1a`, `extractor.convC2a`, …; the last `extractor.convC…b` | the same |
| `extractor.convDb` | elements of a descriptor, with the inputs of the matcher |
| `matcher.kenc.encoder.N` | hidden channels of the keypoint encoder |
| `matcher.gnn.layers.I.mlp.0` | hidden channels of the message MLP |
| `matcher.gnn.layers.I.attn` | attention heads |
| `matcher.gnn.layers.I.attn.head_dim` | width of every head |
| `matcher.width` | feature width of all layers of the matcher |

The units of the last two groups are directions instead of channels: see `feature_width` and
`models.low_rank`. With a context branch, conv4b and all but the last `extractor.convC…b` keep their
channels, because the output of a projection is added to theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from featherglue.artifact.layers import ENCODER, context_levels
from featherglue.config import (
    ArchitectureConfig,
    AttentionConfig,
    SuperGlueConfig,
    SuperPointConfig,
)
from featherglue.errors import ConfigError

WIDTH = "matcher.width"
DESCRIPTOR = "extractor.convDb"
HEAD_DIM = ".attn.head_dim"


def group_sizes(architecture: ArchitectureConfig) -> dict[str, int]:
    """Return the number of units of every group, in network order."""
    sizes: dict[str, int] = {}
    if (point := architecture.extractor) is not None:
        sizes |= _extractor_sizes(point)
        sizes[DESCRIPTOR] = point.descriptor_dim
    if (glue := architecture.matcher) is not None:
        sizes |= dict(zip(encoder_names(glue), glue.keypoint_encoder, strict=True))
        for i, layer in enumerate(glue.layers):
            name = f"matcher.gnn.layers.{i}"
            sizes[f"{name}.attn"] = layer.heads
            sizes[f"{name}{HEAD_DIM}"] = layer.head_dim
            sizes[f"{name}.mlp.0"] = layer.hidden
        sizes[WIDTH] = glue.width
    return sizes


def _extractor_sizes(point: SuperPointConfig) -> dict[str, int]:
    """Return the number of channels of every group of the extractor but the last."""
    sizes = dict(zip(ENCODER, point.channels, strict=True))
    sizes |= {"Pa": point.detector_channels}
    if point.context_channels:
        del sizes[ENCODER[-1]]
        sizes |= dict(_context_sizes(point))
    sizes |= {"Da": point.descriptor_channels}
    return {f"extractor.conv{name}": size for name, size in sizes.items()}


def _context_sizes(point: SuperPointConfig) -> Iterator[tuple[str, int]]:
    """Yield the layers of the context branch that can be narrowed, with their channels."""
    levels = context_levels(point)
    for level in levels:
        yield level.first, level.hidden
    yield levels[-1].second, levels[-1].outputs


def encoder_names(glue: SuperGlueConfig) -> list[str]:
    """Return the names of the hidden layers of the keypoint encoder."""
    step = 3 if glue.batch_norm else 2
    return [f"matcher.kenc.encoder.{step * i}" for i in range(len(glue.keypoint_encoder))]


def layer_flows(architecture: ArchitectureConfig) -> dict[str, tuple[str, str]]:
    """Return the groups of the outputs and of the inputs of each layer; "" means no group.

    `matcher.width` is left out. A group of heads stands for the channels of the heads.
    """
    flows: dict[str, tuple[str, str]] = {}
    if architecture.extractor is not None:
        before = ""
        for name in ENCODER:
            flows[f"extractor.conv{name}"] = f"extractor.conv{name}", before
            before = f"extractor.conv{name}"
        for level in context_levels(architecture.extractor):
            first, second, last = (
                f"extractor.conv{name}" for name in (level.first, level.second, level.projection)
            )
            flows |= {first: (first, ""), second: (second, first), last: ("", second)}
        for head in ("P", "D"):
            first, last = f"extractor.conv{head}a", f"extractor.conv{head}b"
            flows[first] = first, before
            flows[last] = DESCRIPTOR if head == "D" else "", first
    if (glue := architecture.matcher) is not None:
        step = 3 if glue.batch_norm else 2
        before = ""
        for name in encoder_names(glue):
            flows[name] = name, before
            before = name
        flows[f"matcher.kenc.encoder.{step * len(glue.keypoint_encoder)}"] = "", before
        flows["matcher.input_proj"] = "", DESCRIPTOR
        for i in range(len(glue.layers)):
            name = f"matcher.gnn.layers.{i}"
            flows |= {f"{name}.attn.proj.{j}": (f"{name}.attn", "") for j in range(3)}
            flows[f"{name}.attn.merge"] = "", f"{name}.attn"
            flows[f"{name}.mlp.0"] = f"{name}.mlp.0", ""
            flows[f"{name}.mlp.{step}"] = "", f"{name}.mlp.0"
    return flows


def resized(architecture: ArchitectureConfig, sizes: Mapping[str, int]) -> ArchitectureConfig:
    """Return the architecture with new sizes of some groups.

    Raises:
        ConfigError: a group does not exist, a size is larger than before or less than 1, or the
            feature width of the matcher would become that of the descriptors.
    """
    old = group_sizes(architecture)
    for name, size in sizes.items():
        if name not in old:
            raise ConfigError(f"this model has no group {name!r}")
        if not 1 <= size <= old[name]:
            raise ConfigError(f"{name} has {old[name]} units; its size cannot become {size}")
    new = {**old, **sizes}
    point, glue = architecture.extractor, architecture.matcher
    if glue is not None:
        descriptor = new.get(DESCRIPTOR, glue.descriptor_dim)
        _check_projection(glue, descriptor, new[WIDTH])
        glue = _resized_glue(glue, new, descriptor)
    return ArchitectureConfig(extractor=point and _resized_point(point, new), matcher=glue)


def _check_projection(glue: SuperGlueConfig, descriptor: int, width: int) -> None:
    changed = (descriptor, width) != (glue.descriptor_dim, glue.width)
    if changed and descriptor == width:
        raise ConfigError(
            f"the feature width cannot become the width of the descriptors, {width}: such a "
            "matcher has no projection; choose another width"
        )


def _resized_point(point: SuperPointConfig, new: Mapping[str, int]) -> SuperPointConfig:
    def width(name: str, unchanged: int) -> int:
        return new.get(f"extractor.conv{name}", unchanged)

    context = [
        width(name, old)
        for level in context_levels(point)
        for name, old in ((level.first, level.hidden), (level.second, level.outputs))
    ]
    return replace(
        point,
        channels=tuple(width(*layer) for layer in zip(ENCODER, point.channels, strict=True)),
        context_channels=tuple(context),
        detector_channels=new["extractor.convPa"],
        descriptor_channels=new["extractor.convDa"],
        descriptor_dim=new[DESCRIPTOR],
    )


def _resized_glue(
    glue: SuperGlueConfig, new: Mapping[str, int], descriptor: int
) -> SuperGlueConfig:
    def layer(i: int, old: AttentionConfig) -> AttentionConfig:
        name = f"matcher.gnn.layers.{i}"
        return replace(
            old,
            heads=new[f"{name}.attn"],
            head_dim=new[f"{name}{HEAD_DIM}"],
            hidden=new[f"{name}.mlp.0"],
        )

    return replace(
        glue,
        descriptor_dim=descriptor,
        width=new[WIDTH],
        keypoint_encoder=tuple(new[name] for name in encoder_names(glue)),
        layers=tuple(layer(i, old) for i, old in enumerate(glue.layers)),
    )
