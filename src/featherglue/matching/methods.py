"""The extractor and the matcher that the options of a session name."""

from __future__ import annotations

import os

from featherglue.artifact.format import Artifact
from featherglue.errors import UsageError
from featherglue.matching.extractors import ClassicalExtractor, Extractor, NetworkExtractor
from featherglue.matching.matchers import Matcher, NearestNeighborMatcher, NetworkMatcher
from featherglue.matching.opencv import DESCRIPTOR_WIDTHS
from featherglue.options import FeaturesKind, ProcessingConfig, SessionOptions, settings
from featherglue.runtime.base import Runtime

# Ratio of Lowe's test. Learned features and ORB work better without it.
_RATIOS: dict[FeaturesKind, float | None] = {"superpoint": None, "sift": 0.85, "orb": None}


def make_nearest_neighbor_matcher(
    options: SessionOptions, processing: ProcessingConfig
) -> NearestNeighborMatcher:
    """Mutual nearest neighbors, with Lowe's test for SIFT."""
    return NearestNeighborMatcher(_RATIOS[options.features], processing)


def make_extractor(
    options: SessionOptions, running: Runtime, processing: ProcessingConfig
) -> Extractor:
    """The extractor of `options`; `running` executes the model's network."""
    if options.features == "superpoint":
        return NetworkExtractor(running, processing)
    return ClassicalExtractor(options.features, processing)


def make_matcher(
    options: SessionOptions, running: Runtime, processing: ProcessingConfig, artifact: Artifact
) -> Matcher:
    """The matcher of `options`; `running` executes the network of `artifact`."""
    if options.matcher == "nn":
        return make_nearest_neighbor_matcher(options, processing)
    config = artifact.architecture.matcher
    assert config is not None
    bin_score = float(artifact.arrays["matcher.bin_score"])
    return NetworkMatcher(running, processing, bin_score, config.descriptor_dim)


def check_no_model(model: str | os.PathLike[str], options: SessionOptions) -> None:
    """Raise UsageError if a model or a runtime is given with methods that use neither."""
    given = ["`model`"] if os.fspath(model) != "fast" else []
    given += ["`runtime`"] if options.runtime != "auto" else []
    if given:
        raise UsageError(
            f"`features={options.features!r}` with `matcher='nn'` uses no model and no runtime: "
            f"remove {' and '.join(given)}"
        )


def check_fit(artifact: Artifact, options: SessionOptions) -> None:
    """Raise UsageError if the model lacks a network, or its matcher takes other descriptors."""
    extractor, matcher = artifact.architecture.extractor, artifact.architecture.matcher
    if options.features == "superpoint" and extractor is None:
        raise UsageError(f"{artifact.folder}: this model has no extractor; use `features='sift'`")
    if options.matcher == "superglue":
        if matcher is None:
            raise UsageError(f"{artifact.folder}: this model has no matcher; use `matcher='nn'`")
        width = DESCRIPTOR_WIDTHS.get(options.features)
        if width is not None and width != matcher.descriptor_dim:
            unused = [
                f"`{name}`"
                for name in options.overrides()
                if settings()[name].method == "superglue"
            ]
            remedy = " and remove ".join(["use `matcher='nn'`", *unused])
            raise UsageError(
                f"`features={options.features!r}` has {width}-d descriptors, but this model's "
                f"SuperGlue takes {matcher.descriptor_dim}-d ones: {remedy}"
            )
