"""A model of one model's extractor and another one's matcher.

python scripts/combine.py EXTRACTOR MATCHER --images PHOTOS -o OUT

Two extractors that learned apart, or went apart, describe alike but for a rotation of their
descriptors. Comparing descriptors does not see it, a matcher does: with --images the extractor's
last layer is turned so that its descriptors come closest to those of the matcher's own extractor
(an orthogonal Procrustes problem, in closed form), and the matcher can go on from there. Wider
descriptors are projected to the matcher's width by the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featherglue.artifact.format import load_artifact
from featherglue.errors import FeatherglueError, UsageError
from featherglue.io.image import read_evenly
from featherglue.matching.keypoints import pad_to_cells
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint
from featherglue.train.losses.distillation import procrustes
from featherglue.train.stages.run_setup import history


@torch.no_grad()
def turn_descriptors(
    extractor: SuperPoint, onto: SuperPoint, images: Sequence[NDArray[np.uint8]]
) -> tuple[SuperPoint, float, float]:
    """An extractor with its descriptors turned onto those, as wide or less, of another one.

    Returns:
        it; the mean cosine between both before, in the first dimensions, and after.
    """
    ours, theirs = (
        torch.cat([_dense(net, image) for image in images]) for net in (extractor, onto)
    )
    width = theirs.shape[1]
    if ours.shape[1] < width:
        raise UsageError("the matcher's extractor has wider descriptors")
    turn = procrustes(ours.T @ theirs)
    turned = SuperPoint(replace(extractor.config, descriptor_dim=width)).eval()
    state = extractor.state_dict()
    state["convDb.weight"] = torch.einsum("io,ixyz->oxyz", turn, state["convDb.weight"])
    state["convDb.bias"] = turn.T @ state["convDb.bias"]
    turned.load_state_dict(state)
    before = F.cosine_similarity(ours[:, :width], theirs).mean()
    return turned, float(before), float(F.cosine_similarity(ours @ turn, theirs).mean())


def _dense(network: SuperPoint, image: NDArray[np.uint8]) -> Tensor:
    """Descriptors (Hc·Wc, D), L2-normalised."""
    padded = torch.from_numpy(pad_to_cells(image))[None, None].float() / 255
    return F.normalize(network.eval().forward_raw(padded)[1], dim=1)[0].flatten(1).T


def main() -> None:
    """Combine and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("extractor", type=Path)
    parser.add_argument("matcher", type=Path)
    parser.add_argument("--images", type=Path, help="photographs to turn descriptors by")
    parser.add_argument("--count", type=int, default=100, help="of them")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    first, second = Model.load(options.extractor), Model.load(options.matcher)
    extractor = first.extractor
    steps = list(history(str(options.extractor), "extractor"))
    for path, model, part in (
        (options.extractor, first, "extractor"),
        (options.matcher, second, "matcher"),
        *([(options.matcher, second, "extractor")] if options.images else []),
    ):
        if getattr(model, part) is None:
            raise UsageError(f"{path}: holds no {part}")
    if options.images is not None and first.extractor and second.extractor:
        images = read_evenly(options.images, options.count)
        extractor, before, after = turn_descriptors(first.extractor, second.extractor, images)
        print(f"cosine with the other's descriptors: {before:.3f} before, {after:.3f} after")
        onto = load_artifact(options.matcher).hash
        steps.append({"step": "turn-descriptors", "onto": onto, "photographs": len(images)})
    steps += history(str(options.matcher), "matcher")
    provenance = replace(second.provenance, recipe=tuple(steps), parent="")
    replace(second, extractor=extractor, provenance=provenance).save(options.output)


if __name__ == "__main__":
    try:
        main()
    except FeatherglueError as error:
        sys.exit(f"error: {error}")
