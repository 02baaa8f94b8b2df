"""The layers and tensors of an architecture, computed without building the networks.

They serve to check artifacts and to count parameters and multiply–accumulates (MACs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from featherglue.config import ArchitectureConfig, SuperGlueConfig, SuperPointConfig

# Names of the encoder's convolutions, and pixels of a cell in each direction.
ENCODER = ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b")
CELL = 8
_POOLED = ("1b", "2b", "3b")
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        name: name of the module, for example "extractor.conv1a".
        shape: shape of the weight: (out, in, k, k) or (out, in).
        per: "keypoint" if the layer runs once for each keypoint; "pixel/n" if it runs once for
            every n pixels of the image, rounded up along each side.
        norm: name of the batch normalization that follows, or "".
    """

    name: str
    shape: tuple[int, ...]
    per: str
    norm: str = ""

    def macs(self, image_size: tuple[int, int], keypoints: int) -> int:
        """MACs of one run: for one image, or for one pair of images.

        Args:
            image_size: (width, height), pixels; padded to multiples of 8.
            keypoints: number of keypoints of each image.
        """
        weights = math.prod(self.shape)
        if self.per == "keypoint":
            return weights * 2 * keypoints
        stride = math.isqrt(int(self.per.split("/")[1]))
        sides = (math.ceil(side / CELL) * CELL for side in image_size)
        return weights * math.prod(math.ceil(side / stride) for side in sides)


def pooled_layers(stem: int) -> tuple[str, ...]:
    """Names of the encoder's convolutions that 2×2 max pooling follows.

    A stem of 2 has a stride of 2 instead of the first pooling.
    """
    return _POOLED[stem - 1 :]


@dataclass(frozen=True)
class ContextLevel:
    """The layers of one level of the context branch, without their prefix "conv".

    Attributes:
        first: 3×3 convolution from `inputs` to `hidden` channels.
        second: 3×3 convolution from `hidden` to `outputs` channels.
        projection: 1×1 convolution from `outputs` back to `inputs` channels.
        per: number of image pixels for each position where the layers run.
    """

    first: str
    second: str
    projection: str
    inputs: int
    hidden: int
    outputs: int
    per: int


def context_levels(config: SuperPointConfig) -> list[ContextLevel]:
    """All levels of the context branch, the finest first."""
    found: list[ContextLevel] = []
    inputs, widths = config.channels[-1], config.context_channels
    for i, (hidden, outputs) in enumerate(zip(widths[::2], widths[1::2], strict=True), 1):
        names = context_names(i)
        found.append(ContextLevel(*names, inputs, hidden, outputs, CELL**2 * 4**i))
        inputs = outputs
    return found


def context_names(level: int) -> tuple[str, str, str]:
    """Names of the layers of a level, from 1: two convolutions and the projection."""
    return f"C{level}a", f"C{level}b", f"C{level}p"


def layers(architecture: ArchitectureConfig) -> list[Layer]:
    """All layers with weights, in the order of execution."""
    found: list[Layer] = []
    if architecture.extractor is not None:
        found.extend(_superpoint(architecture.extractor))
    if architecture.matcher is not None:
        found.extend(_superglue(architecture.matcher))
    return found


def tensor_shapes(architecture: ArchitectureConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of an architecture, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers(architecture):
        shapes[f"{layer.name}.weight"] = layer.shape
        shapes[f"{layer.name}.bias"] = layer.shape[:1]
        if layer.norm:
            shapes |= {f"{layer.norm}.{part}": layer.shape[:1] for part in NORM_PARTS}
    if architecture.matcher is not None:
        shapes["matcher.bin_score"] = ()
    return shapes


def product_names(matcher: SuperGlueConfig) -> list[str]:
    """Names of a matcher's products without weights that can be quantized, in order.

    `attn.scores` is query times key and `attn.message` is attention weights times value, in each
    layer; `matcher.similarity` is the score matrix; `matcher.sinkhorn` is the input of the
    Sinkhorn iterations.
    """
    names: list[str] = []
    for i in range(len(matcher.layers)):
        names += [f"matcher.gnn.layers.{i}.attn.{part}" for part in ("scores", "message")]
    return [*names, "matcher.similarity", "matcher.sinkhorn"]


def activation_names(architecture: ArchitectureConfig) -> list[str]:
    """Names of all activations that can be quantized.

    The input of a layer has the name of the layer. The first layer of a message MLP has a second
    input, `mlp.0.message`. The outputs of the extractor are `convPb.output` and `convDb.output`.
    The inputs of products are those of `product_names`, with `.query`, `.key`, `.weights` or
    `.value` within attention.
    """
    names = [layer.name for layer in layers(architecture)]
    if architecture.extractor is not None:
        names += ["extractor.convPb.output", "extractor.convDb.output"]
    if architecture.matcher is not None:
        for i in range(len(architecture.matcher.layers)):
            name = f"matcher.gnn.layers.{i}"
            names += [f"{name}.mlp.0.message"]
            names += [f"{name}.attn.scores.query", f"{name}.attn.scores.key"]
            names += [f"{name}.attn.message.weights", f"{name}.attn.message.value"]
        names += ["matcher.similarity", "matcher.sinkhorn"]
    return names


def is_parameter(tensor: str) -> bool:
    """Whether a tensor is learned, as opposed to a running statistic."""
    return not tensor.endswith((".running_mean", ".running_var"))


def attention_macs(matcher: SuperGlueConfig, keypoints: int) -> int:
    """MACs of the products without weights, for a pair: attention and the score matrix."""
    square = keypoints**2
    attention = sum(2 * 2 * layer.heads * layer.head_dim * square for layer in matcher.layers)
    return attention + matcher.width * square


def total_macs(
    architecture: ArchitectureConfig, image_size: tuple[int, int] = (640, 480), keypoints: int = 512
) -> dict[str, int]:
    """MACs of extraction for one image and of matching for a pair.

    Args:
        image_size: (width, height), pixels.
        keypoints: number of keypoints of each image.

    Returns:
        Counts by network: "extractor" and "matcher".
    """
    counts = {"extractor": 0, "matcher": 0}
    for layer in layers(architecture):
        counts[layer.name.split(".")[0]] += layer.macs(image_size, keypoints)
    if architecture.matcher is not None:
        counts["matcher"] += attention_macs(architecture.matcher, keypoints)
    return counts


def _superpoint(config: SuperPointConfig) -> Iterator[Layer]:
    def layer(name: str, outputs: int, inputs: int, kernel: int, per: int) -> Layer:
        plain = kernel == 1  # the last layer of a head, or a projection
        norm = f"extractor.bn{name}" if config.batch_norm and not plain else ""
        shape = (outputs, inputs, kernel, kernel)
        return Layer(f"extractor.conv{name}", shape, f"pixel/{per}", norm)

    inputs = 1
    for i, (name, outputs) in enumerate(zip(ENCODER, config.channels, strict=True)):
        kernel = 4 if i == 0 and config.stem == 2 else 3
        yield layer(name, outputs, inputs, kernel, max(config.stem**2, 4 ** (i // 2)))
        inputs = outputs
    yield layer("Pa", config.detector_channels, inputs, 3, CELL**2)
    yield layer("Pb", CELL**2 + 1, config.detector_channels, 1, CELL**2)
    levels = context_levels(config)
    for level in levels:
        yield layer(level.first, level.hidden, level.inputs, 3, level.per)
        yield layer(level.second, level.outputs, level.hidden, 3, level.per)
    for level in reversed(levels):
        yield layer(level.projection, level.inputs, level.outputs, 1, level.per)
    yield layer("Da", config.descriptor_channels, inputs, 3, CELL**2)
    yield layer("Db", config.descriptor_dim, config.descriptor_channels, 1, CELL**2)


def _superglue(config: SuperGlueConfig) -> Iterator[Layer]:
    width = config.width
    if config.descriptor_dim != width:
        yield Layer("matcher.input_proj", (width, config.descriptor_dim), "keypoint")
    widths = (3, *config.keypoint_encoder, width)
    yield from _mlp("matcher.kenc.encoder", widths, config.batch_norm)
    for i, layer in enumerate(config.layers):
        name, inner = f"matcher.gnn.layers.{i}", layer.heads * layer.head_dim
        for j in range(3):
            yield Layer(f"{name}.attn.proj.{j}", (inner, width), "keypoint")
        yield Layer(f"{name}.attn.merge", (width, inner), "keypoint")
        yield from _mlp(f"{name}.mlp", (2 * width, layer.hidden, width), config.batch_norm)
    yield Layer("matcher.final_proj", (width, width), "keypoint")


def _mlp(name: str, widths: Sequence[int], batch_norm: bool) -> Iterator[Layer]:
    step = 3 if batch_norm else 2
    for i in range(1, len(widths)):
        index = (i - 1) * step
        norm = f"{name}.{index + 1}" if batch_norm and i < len(widths) - 1 else ""
        yield Layer(f"{name}.{index}", (widths[i], widths[i - 1]), "keypoint", norm)
