"""The extractor of one model with the matcher of another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featherglue.artifact.format import load_artifact
from featherglue.errors import UsageError
from featherglue.matching.keypoints import pad_to_cells
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint
from featherglue.train.losses.descriptor_map import procrustes
from featherglue.train.stages.stage_provenance import training_steps


@dataclass(frozen=True, kw_only=True)
class AlignedExtractor:
    """An extractor whose descriptors were aligned with those of another one.

    Attributes:
        extractor: the aligned extractor.
        cosine_before: mean cosine between both descriptors before, in [-1, 1], over the first
            dimensions if the widths differ.
        cosine_after: the same afterward.
    """

    extractor: SuperPoint
    cosine_before: float
    cosine_after: float


@dataclass(frozen=True, kw_only=True)
class CombinedModel:
    """A combined model.

    Attributes:
        model: extractor and matcher.
        aligned: quality of the alignment of the descriptors; None without images.
    """

    model: Model
    aligned: AlignedExtractor | None


def combine(
    extractor: str | os.PathLike[str],
    matcher: str | os.PathLike[str],
    images: Sequence[NDArray[np.uint8]] = (),
) -> CombinedModel:
    """The extractor of one model with the matcher of another.

    The descriptors of two independently trained extractors differ by a rotation of descriptor
    space, which a matcher does not tolerate. With `images` the descriptors are aligned with those
    of the extractor that the matcher was trained with; see `align_descriptors`.

    Args:
        extractor: folder of the model with the extractor.
        matcher: folder of the model with the matcher; its settings are used.
        images: photographs (H, W) uint8; without any, descriptors are not aligned.

    Raises:
        ArtifactError: a folder is not a model.
        UsageError: a model lacks the network, or its descriptors are too narrow.
    """
    first, second = Model.load(extractor), Model.load(matcher)
    if first.extractor is None:
        raise UsageError(f"{extractor}: this model has no extractor")
    if second.matcher is None:
        raise UsageError(f"{matcher}: this model has no matcher")
    steps: list[dict[str, Any]] = list(training_steps(str(extractor), "extractor"))
    network, aligned = first.extractor, None
    if images:
        if second.extractor is None:
            raise UsageError(f"{matcher}: this model has no extractor to align descriptors with")
        aligned = align_descriptors(first.extractor, second.extractor, images)
        network = aligned.extractor
        onto = load_artifact(matcher).hash
        steps.append({"step": "turn-descriptors", "onto": onto, "photographs": len(images)})
    steps += [step for step in training_steps(str(matcher), "matcher") if step not in steps]
    provenance = replace(second.provenance, recipe=tuple(steps), parent="")
    model = replace(second, extractor=network, provenance=provenance)
    return CombinedModel(model=model, aligned=aligned)


@torch.no_grad()
def align_descriptors(
    extractor: SuperPoint, target: SuperPoint, images: Sequence[NDArray[np.uint8]]
) -> AlignedExtractor:
    """Rotate the descriptors of an extractor to those of another one.

    The rotation solves the orthogonal Procrustes problem (Schönemann 1966) over the dense
    descriptors of the images, and is merged into the last convolution. Wider descriptors are
    projected to the width of the target.

    Args:
        extractor: the extractor to change; a copy is returned.
        target: the extractor with the descriptors to reach.
        images: photographs (H, W) uint8.

    Raises:
        UsageError: the target has wider descriptors.
    """
    ours, theirs = (
        torch.cat([_dense_descriptors(net, image) for image in images])
        for net in (extractor, target)
    )
    width = theirs.shape[1]
    if ours.shape[1] < width:
        raise UsageError(
            f"descriptors of width {ours.shape[1]} cannot be aligned with wider ones ({width})"
        )
    rotation = procrustes(ours.T @ theirs)
    rotated = SuperPoint(replace(extractor.config, descriptor_dim=width)).eval()
    state = extractor.state_dict()
    state["convDb.weight"] = torch.einsum("io,ixyz->oxyz", rotation, state["convDb.weight"])
    state["convDb.bias"] = rotation.T @ state["convDb.bias"]
    rotated.load_state_dict(state)
    before = F.cosine_similarity(ours[:, :width], theirs).mean()
    after = F.cosine_similarity(ours @ rotation, theirs).mean()
    return AlignedExtractor(
        extractor=rotated, cosine_before=float(before), cosine_after=float(after)
    )


def _dense_descriptors(network: SuperPoint, image: NDArray[np.uint8]) -> Tensor:
    """Descriptors (Hc·Wc, D) of all cells, L2-normalized."""
    padded = torch.from_numpy(pad_to_cells(image))[None, None].float() / 255
    return F.normalize(network.eval().forward_raw(padded)[1], dim=1)[0].flatten(1).T
