"""Why the study's linear quantization gave nothing, and why its channel pruning collapsed: each
cause put back, one after the other, and measured without fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import NORM_PARTS, layers
from featherglue.compression.calibration import CalibrationData, prepare_calibration
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.quantization.ranges import quantize_weight
from featherglue.compression.structured.channels import ChannelConfig, channel_sizes, prune_channels
from featherglue.compression.structured.groups import layer_flows, resized
from featherglue.compression.structured.shrink import shrink, strongest
from featherglue.matching.assignment import mutual_matches, optimal_transport
from featherglue.matching.matchers import NetworkMatcher, matcher_keypoints
from featherglue.matching.stopwatch import Stopwatch
from featherglue.models.model import Model
from featherglue.sensitivity.scoring import HomographyScorer
from featherglue.session import Session
from featherglue.types import Features

Grey = NDArray[np.uint8]
RATIO = 0.2  # of SuperPoint's channels, the study's
_NAIVE = LinearConfig(
    per="tensor",
    weight_range="minmax",
    activation_range="minmax",
    reduce_range=False,
    correct_bias=False,
    include=("*",),
)
_PRODUCTS = ("*.attn.scores", "*.attn.message", "matcher.similarity", "matcher.sinkhorn")


@dataclass(frozen=True)
class Variant:
    """A way to make a model, and how to say it in a table.

    Attributes:
        adapt: changes the session that the model is measured with.
    """

    title: str
    make: Callable[[], Model]
    adapt: Callable[[Session], Session] = lambda session: session


def measure(variants: Sequence[Variant], scorer: HomographyScorer) -> list[dict[str, Any]]:
    """A row for each variant: its `title` and what `HomographyScorer` says of it."""
    rows = []
    for variant in variants:
        scores = scorer.score(variant.make(), variant.adapt)
        rows.append({"title": variant.title, **{k: round(v, 2) for k, v in scores.items()}})
        print(f"    {variant.title}: {rows[-1]['precision']:.1f} precision", flush=True)
    return rows


def linear_variants(dense: Model, images: Sequence[Grey], size: tuple[int, int]) -> list[Variant]:
    """8 bits for weights and activations: as carelessly as can be, then better and better.

    Args:
        dense: with batch normalisation, if it was trained with it.
    """
    folded = Model.from_artifact(fold_batch_norm(dense.to_artifact()))
    inputs = prepare_calibration(folded, images, size)

    def linear(config: LinearConfig) -> Callable[[], Model]:
        return lambda: quantize_linear(folded, config, inputs)

    layers_only = replace(_NAIVE, exclude=_PRODUCTS)
    inner = replace(_NAIVE, include=(), exclude=())
    few = replace(_NAIVE, bits=4, activation_bits=4)
    found = [
        Variant("float32", lambda: folded),
        Variant("everything in 4 bits, a scale a tensor, min–max", linear(few)),
        Variant("weights in 8 bits, zero points forgotten", lambda: _without_zero_points(folded)),
        Variant(
            "everything in 8 bits, the assignment after Sinkhorn included",
            linear(_NAIVE),
            _coarse_assignment,
        ),
        Variant("everything but the assignment, per tensor, min–max", linear(_NAIVE)),
        Variant("without the products of attention, similarity and Sinkhorn", linear(layers_only)),
        Variant("and without the first and last layers", linear(inner)),
        Variant("and a scale for each output channel", linear(replace(inner, per="channel"))),
        Variant("and ranges by mean squared error, biases corrected", linear(LinearConfig())),
    ]
    if dense.architecture != folded.architecture:
        found[3:3] = [
            Variant(
                "all tensors in 8 bits, variances of normalisation too",
                lambda: _rounded(dense, lambda name: True),
            ),
            Variant(
                "weights in 8 bits, normalisation not folded",
                lambda: _rounded(dense, _weights_of(dense)),
            ),
        ]
    return found


def _weights_of(model: Model) -> Callable[[str], bool]:
    names = {f"{layer.name}.weight" for layer in layers(model.architecture)}
    return lambda name: name in names


def _rounded(model: Model, chosen: Callable[[str], bool]) -> Model:
    """Tensors in 8 bits with one scale each, by min–max, as they are before anything is folded."""
    artifact = model.to_artifact()
    for name, array in artifact.arrays.items():
        if array.ndim and chosen(name):
            code = quantize_weight(array[:, None], 8, 1, "symmetric", "minmax", 100.0)
            artifact.arrays[name] = code.decode().reshape(array.shape)
    return Model.from_artifact(artifact)


def _without_zero_points(model: Model) -> Model:
    """Affine codes times their scale, as if all zero points were 0."""
    artifact = model.to_artifact()
    for layer in layers(artifact.architecture):
        name = f"{layer.name}.weight"
        code = quantize_weight(artifact.arrays[name], 8, 1, "affine", "minmax", 100.0)
        artifact.arrays[name] = code.codes.astype(np.float32) * code.scale[0]
    return Model.from_artifact(artifact)


def _coarse_assignment(session: Session) -> Session:
    assert isinstance(session.matcher, NetworkMatcher)
    matcher = _CoarseMatcher(**vars(session.matcher))
    return Session(session.extractor, matcher, session.processing)


@dataclass(frozen=True)
class _CoarseMatcher(NetworkMatcher):
    """A matcher whose log assignment is rounded to 256 steps between its ends."""

    def __call__(
        self, features0: Features, features1: Features, watch: Stopwatch
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        del watch
        scores = self.runtime.match(
            matcher_keypoints(features0),
            features0.descriptors,
            matcher_keypoints(features1),
            features1.descriptors,
        )
        iterations = self.processing.sinkhorn_iterations
        assignment = optimal_transport(scores, self.bin_score, iterations)
        log = np.log(np.maximum(assignment, np.float32(1e-30)))
        step = max(float(log.max() - log.min()) / 255, 1e-9)
        rounded = np.exp(np.rint(log / step) * step).astype(np.float32)
        return mutual_matches(rounded, self.processing.match_threshold)


def channel_variants(dense: Model, images: Sequence[Grey], size: tuple[int, int]) -> list[Variant]:
    """A fifth of SuperPoint's channels: with what is easily forgotten, and without."""
    folded = Model.from_artifact(fold_batch_norm(dense.to_artifact()))
    inputs = prepare_calibration(folded, images, size)
    l2, taylor = ChannelConfig(ratio=RATIO), ChannelConfig(ratio=RATIO, importance="taylor")
    found = [
        Variant("all channels", lambda: folded),
        Variant(
            "the weakest by L2, inputs of the next layers cut at the end",
            lambda: _misaligned(folded, l2),
        ),
        Variant("channels drawn at random, inputs aligned", lambda: _random(folded, l2, inputs)),
        Variant("the weakest by L2, inputs aligned", lambda: prune_channels(folded, l2, inputs)),
        Variant(
            "the weakest by what they do (Taylor), inputs aligned",
            lambda: prune_channels(folded, taylor, inputs),
        ),
    ]
    if dense.architecture != folded.architecture:
        found.insert(
            2,
            Variant(
                "aligned, but statistics of batch normalisation cut at the end",
                lambda: _foreign_statistics(dense, l2),
            ),
        )
    return found


def _random(model: Model, config: ChannelConfig, inputs: CalibrationData) -> Model:
    rng = np.random.default_rng(0)
    sizes = channel_sizes(model.architecture, config)
    flows = {layer.name: layer.shape[0] for layer in layers(model.architecture)}
    return shrink(model, sizes, {name: rng.random(flows[name]) for name in sizes}, inputs)


def _misaligned(model: Model, config: ChannelConfig) -> Model:
    """Each layer keeps its strongest outputs, and of its inputs the first ones."""
    return _cut(model, config, aligned=False, own_statistics=True)


def _foreign_statistics(model: Model, config: ChannelConfig) -> Model:
    """Channels aligned, but normalised by the statistics of others."""
    return _cut(model, config, aligned=True, own_statistics=False)


def _cut(model: Model, config: ChannelConfig, *, aligned: bool, own_statistics: bool) -> Model:
    artifact = model.to_artifact()
    sizes = channel_sizes(artifact.architecture, config)
    flows, kept = layer_flows(artifact.architecture), _strongest_rows(artifact, sizes)
    arrays = dict(artifact.arrays)
    for layer in layers(artifact.architecture):
        outputs, inputs = flows.get(layer.name, ("", ""))
        weight, bias = arrays[f"{layer.name}.weight"], arrays[f"{layer.name}.bias"]
        if inputs in sizes:
            weight = weight[:, kept[inputs] if aligned else np.arange(sizes[inputs])]
        if outputs in sizes:
            weight, bias = weight[kept[outputs]], bias[kept[outputs]]
            for part in NORM_PARTS if layer.norm else ():
                rows = kept[outputs] if own_statistics else np.arange(sizes[outputs])
                arrays[f"{layer.norm}.{part}"] = arrays[f"{layer.norm}.{part}"][rows]
        arrays[f"{layer.name}.weight"], arrays[f"{layer.name}.bias"] = weight, bias
    architecture = resized(artifact.architecture, sizes)
    return Model.from_artifact(replace(artifact, architecture=architecture, arrays=arrays))


def _strongest_rows(artifact: Artifact, sizes: dict[str, int]) -> dict[str, NDArray[np.int64]]:
    """The outputs of the largest norm, by group, which has its first layer's name."""
    norms = {name: artifact.arrays[f"{name}.weight"] for name in sizes}
    return {
        name: strongest(np.square(weight.reshape(len(weight), -1)).sum(1), sizes[name])
        for name, weight in norms.items()
    }
