"""The tensors and layers that an architecture consists of, without building the network.

From these an artifact is checked, and parameters and multiply–accumulates (MACs) are counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from featherglue.config import ArchitectureConfig, SuperGlueConfig, SuperPointConfig

ENCODER = ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b")
CELL = 8
_POOLED = ("1b", "2b", "3b")
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        name: of the module, e.g. "extractor.conv1a".
        shape: of its weight: (out, in, k, k) or (out, in).
        norm: name of the batch normalisation behind it, or "".
        per: what it runs once for: "pixel/1", "pixel/4", … (of the image), or "keypoint".
    """

    name: str
    shape: tuple[int, ...]
    per: str
    norm: str = ""

    def macs(self, image_size: tuple[int, int], keypoints: int) -> int:
        """Multiply–accumulates for one image of (width, height), or for a pair of keypoint sets."""
        weights = math.prod(self.shape)
        if self.per == "keypoint":
            return weights * 2 * keypoints
        pixels = math.ceil(image_size[0] / CELL) * math.ceil(image_size[1] / CELL) * CELL**2
        return weights * pixels // int(self.per.split("/")[1])


def pooled(stem: int) -> tuple[str, ...]:
    """The layers of the encoder that a 2×2 pooling follows; a stem of 2 stands for the first."""
    return _POOLED[stem - 1 :]


def layers(architecture: ArchitectureConfig) -> list[Layer]:
    """Every layer with weights, in the order in which they run."""
    found: list[Layer] = []
    if architecture.extractor is not None:
        found.extend(_superpoint(architecture.extractor))
    if architecture.matcher is not None:
        found.extend(_superglue(architecture.matcher))
    return found


def tensor_shapes(architecture: ArchitectureConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that an artifact of this architecture holds."""
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
    """The steps of a matcher that have no weights and can be quantized, in order.

    `attn.scores` compares queries and keys, `attn.message` sums values by their weights,
    `matcher.similarity` compares the features of both images, and `matcher.sinkhorn` starts from
    what comes out of that.
    """
    names: list[str] = []
    for i in range(len(matcher.layers)):
        names += [f"matcher.gnn.layers.{i}.attn.{part}" for part in ("scores", "message")]
    return [*names, "matcher.similarity", "matcher.sinkhorn"]


def activation_names(architecture: ArchitectureConfig) -> list[str]:
    """What flows into layers and products and can be quantized there.

    Of a layer it has the layer's name. The first layer of a message MLP takes the message
    besides, `mlp.0.message`; the last layers of the extractor have an `.output` that no other
    takes.
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
    """Whether a tensor is learned (and not a running statistic)."""
    return not tensor.endswith((".running_mean", ".running_var"))


def attention_macs(matcher: SuperGlueConfig, keypoints: int) -> int:
    """Products without weights for a pair: attention maps, messages, and the score matrix."""
    square = keypoints**2
    attention = sum(2 * 2 * layer.heads * layer.head_dim * square for layer in matcher.layers)
    return attention + matcher.width * square


def total_macs(
    architecture: ArchitectureConfig, image_size: tuple[int, int] = (640, 480), keypoints: int = 512
) -> dict[str, int]:
    """MACs of one extraction and of one match of two images with `keypoints` each."""
    counts = {"extractor": 0, "matcher": 0}
    for layer in layers(architecture):
        counts[layer.name.split(".")[0]] += layer.macs(image_size, keypoints)
    if architecture.matcher is not None:
        counts["matcher"] += attention_macs(architecture.matcher, keypoints)
    return counts


def _superpoint(config: SuperPointConfig) -> Iterator[Layer]:
    def layer(name: str, outputs: int, inputs: int, kernel: int, per: int) -> Layer:
        norm = f"extractor.bn{name}" if config.batch_norm and name not in ("Pb", "Db") else ""
        shape = (outputs, inputs, kernel, kernel)
        return Layer(f"extractor.conv{name}", shape, f"pixel/{per}", norm)

    inputs = 1
    for i, (name, outputs) in enumerate(zip(ENCODER, config.channels, strict=True)):
        kernel = 4 if i == 0 and config.stem == 2 else 3
        yield layer(name, outputs, inputs, kernel, max(config.stem**2, 4 ** (i // 2)))
        inputs = outputs
    yield layer("Pa", config.detector_channels, inputs, 3, CELL**2)
    yield layer("Pb", CELL**2 + 1, config.detector_channels, 1, CELL**2)
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
