"""Why linear quantization and channel pruning failed in the study.

Each possible cause is reproduced in turn and measured without fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.layers import NORM_PARTS, layers
from featherglue.compression.calibration import CalibrationData, prepare_calibration
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.quantization.ranges import quantize_weight
from featherglue.compression.structured.channels import ChannelConfig, channel_sizes, prune_channels
from featherglue.compression.structured.groups import layer_flows, resized
from featherglue.compression.structured.shrink import shrink, strongest
from featherglue.compression.structured.unit_importance import unit_energies
from featherglue.io.gray import Gray
from featherglue.matching.assignment import mutual_matches, optimal_transport
from featherglue.matching.matchers import NetworkMatcher, matcher_keypoints
from featherglue.matching.stopwatch import Stopwatch
from featherglue.models.model import Model
from featherglue.sensitivity.scoring import HomographyScorer
from featherglue.session import Session
from featherglue.types import Features

Sizes = Mapping[str, int]
"""Number of channels that each group keeps."""
Energies = Mapping[str, NDArray[np.float64]]
"""Importance of each channel of a group."""

RATIO = 0.2  # fraction of the channels of SuperPoint that the study removed
_NAIVE = LinearConfig(
    per="tensor",
    weight_range="minmax",
    activation_range="minmax",
    reduce_range=False,
    correct_bias=False,
    include=("*",),
)
_DEFAULT = LinearConfig()
_PRODUCTS = ("*.attn.scores", "*.attn.message", "matcher.similarity", "matcher.sinkhorn")


@dataclass(frozen=True)
class Variant:
    """A variant of a model.

    Attributes:
        title: title in tables.
        make: returns the model.
        adapt: returns the session to measure with, given the session of the model.
    """

    title: str
    make: Callable[[], Model]
    adapt: Callable[[Session], Session] = lambda session: session


def measure(variant: Variant, scorer: HomographyScorer) -> dict[str, Any]:
    """Return the row of a variant: its `title` and the scores of `HomographyScorer`."""
    scores = scorer.score(variant.make(), variant.adapt)
    return {"title": variant.title, **{k: round(v, 2) for k, v in scores.items()}}


def linear_variants(dense: Model, images: Sequence[Gray], size: tuple[int, int]) -> list[Variant]:
    """Return variants of linear quantization, from the least to the most careful one.

    Args:
        dense: the dense model, with batch normalization if it was trained with it.
        images: calibration photographs, (H, W) gray uint8.
        size: (width, height) in pixels to which the photographs are resized.
    """
    folded = Model.from_artifact(fold_batch_norm(dense.to_artifact()))
    calibration = cache(lambda: prepare_calibration(folded, images, size))

    def linear(config: LinearConfig) -> Callable[[], Model]:
        return lambda: quantize_linear(folded, config, calibration())

    layers_only = replace(_NAIVE, exclude=_PRODUCTS)
    inner = replace(_NAIVE, include=(), exclude=())
    four_bits = replace(_NAIVE, bits=4, activation_bits=4)
    found = [
        Variant("float32", lambda: folded),
        Variant("all in 4 bits, one scale per tensor, min–max range", linear(four_bits)),
        Variant("weights in 8 bits, zero points ignored", lambda: _without_zero_points(folded)),
        Variant(
            "all in 8 bits, including the assignment after Sinkhorn",
            linear(_NAIVE),
            _coarse_assignment,
        ),
        Variant("all but the assignment, one scale per tensor, min–max range", linear(_NAIVE)),
        Variant("… without products of attention, similarity and Sinkhorn", linear(layers_only)),
        Variant("… and without first and last layers", linear(inner)),
        Variant("… and with one scale per output channel", linear(replace(inner, per="channel"))),
        Variant("… and with ranges by mean squared error, biases corrected", linear(_DEFAULT)),
    ]
    if dense.architecture != folded.architecture:
        found[3:3] = [
            Variant(
                "all tensors in 8 bits, including variances of normalization",
                lambda: _rounded(dense, lambda name: True),
            ),
            Variant(
                "weights in 8 bits, normalization not folded",
                lambda: _rounded(dense, _weights_of(dense)),
            ),
        ]
    return found


def _weights_of(model: Model) -> Callable[[str], bool]:
    names = {f"{layer.name}.weight" for layer in layers(model.architecture)}
    return lambda name: name in names


def _rounded(model: Model, chosen: Callable[[str], bool]) -> Model:
    """Quantize tensors to 8 bits with one scale each, without folding batch normalization."""
    artifact = model.to_artifact()
    for name, array in artifact.arrays.items():
        if array.ndim and chosen(name):
            code = quantize_weight(array[:, None], 8, 1, "symmetric", "minmax", 100.0)
            artifact.arrays[name] = code.decode().reshape(array.shape)
    return Model.from_artifact(artifact)


def _without_zero_points(model: Model) -> Model:
    """Decode affine codes as if all zero points were 0."""
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
    """A matcher whose log assignment is rounded to 256 levels."""

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


def channel_variants(dense: Model, images: Sequence[Gray], size: tuple[int, int]) -> list[Variant]:
    """Return variants of pruning a fifth of the channels of SuperPoint."""
    folded = Model.from_artifact(fold_batch_norm(dense.to_artifact()))
    calibration = cache(lambda: prepare_calibration(folded, images, size))
    l2, taylor = ChannelConfig(ratio=RATIO), ChannelConfig(ratio=RATIO, importance="taylor")
    sizes = channel_sizes(folded.architecture, taylor)
    energies = cache(lambda: unit_energies(folded, list(sizes), "taylor", calibration()))
    found = [
        Variant("all channels", lambda: folded),
        Variant(
            "smallest Taylor importance, inputs aligned",
            lambda: prune_channels(folded, taylor, calibration()),
        ),
        Variant(
            "smallest Taylor importance, inputs of other channels",
            lambda: _misaligned(folded, sizes, energies()),
        ),
        Variant(
            "smallest L2 norm, inputs aligned", lambda: prune_channels(folded, l2, calibration())
        ),
        Variant("random channels, inputs aligned", lambda: _random(folded, l2, calibration())),
    ]
    if dense.architecture != folded.architecture:
        found.insert(
            3,
            Variant(
                "smallest Taylor importance, inputs aligned, statistics of other channels",
                lambda: _wrong_statistics(dense, sizes, energies()),
            ),
        )
    return found


def _random(model: Model, config: ChannelConfig, calibration: CalibrationData) -> Model:
    rng = np.random.default_rng(0)
    sizes = channel_sizes(model.architecture, config)
    flows = {layer.name: layer.shape[0] for layer in layers(model.architecture)}
    return shrink(model, sizes, {name: rng.random(flows[name]) for name in sizes}, calibration)


def _misaligned(model: Model, sizes: Sizes, energies: Energies) -> Model:
    """Keep the strongest outputs of each layer, but the inputs after those that belong to them."""
    return _cut(model, sizes, energies, aligned=False, own_statistics=True)


def _wrong_statistics(model: Model, sizes: Sizes, energies: Energies) -> Model:
    """Align channels, but normalize each one by the statistics of the one after it."""
    return _cut(model, sizes, energies, aligned=True, own_statistics=False)


def _next(channels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return (channels + 1) % count


def _cut(
    model: Model, sizes: Sizes, energies: Energies, *, aligned: bool, own_statistics: bool
) -> Model:
    artifact = model.to_artifact()
    flows = layer_flows(artifact.architecture)
    kept = {name: strongest(energies[name], size) for name, size in sizes.items()}
    arrays = dict(artifact.arrays)
    for layer in layers(artifact.architecture):
        outputs, inputs = flows.get(layer.name, ("", ""))
        weight, bias = arrays[f"{layer.name}.weight"], arrays[f"{layer.name}.bias"]
        if inputs in sizes:
            rows = kept[inputs] if aligned else _next(kept[inputs], weight.shape[1])
            weight = weight[:, rows]
        if outputs in sizes:
            rows = kept[outputs] if own_statistics else _next(kept[outputs], len(weight))
            weight, bias = weight[kept[outputs]], bias[kept[outputs]]
            for part in NORM_PARTS if layer.norm else ():
                arrays[f"{layer.norm}.{part}"] = arrays[f"{layer.norm}.{part}"][rows]
        arrays[f"{layer.name}.weight"], arrays[f"{layer.name}.bias"] = weight, bias
    architecture = resized(artifact.architecture, sizes)
    return Model.from_artifact(replace(artifact, architecture=architecture, arrays=arrays))
