"""What flows through the networks on real images: the ground for ranges and corrections."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featherglue.data.homography import HomographyRange, sample_homography, warp_image
from featherglue.data.photometric import augment_photometric
from featherglue.errors import UsageError
from featherglue.io.image import resize_grey
from featherglue.models.detection import sample_descriptors, strongest, subpixel_offsets
from featherglue.models.hooks import with_hooks
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue, normalize_keypoints
from featherglue.models.superpoint import SuperPoint, score_map

Grey = NDArray[np.uint8]
# Keypoints (B, N, 2) normalised, scores (B, N), descriptors (B, N, D).
Side = tuple[Tensor, Tensor, Tensor]
_FEWEST_KEYPOINTS = 16
_SAMPLES = 400_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """What the networks are calibrated on.

    Attributes:
        images: of one size, each (1, 1, H, W) float32 in [0, 1]; the second half are other views
            of the first.
        sides: the keypoints of both views, for a matcher; of pair i in entry i.
    """

    images: tuple[Tensor, ...]
    sides: tuple[Side, Side] | None = None


def prepare_inputs(
    model: Model, images: Sequence[Grey], size: tuple[int, int] = (640, 480), seed: int = 0
) -> Inputs:
    """Pairs of views of photographs, and what the model's own extractor finds in them.

    Args:
        images: (H, W) uint8 each. size: (width, height) to work at, multiples of 8.

    Raises:
        UsageError: no images, or none in which keypoints are found.
    """
    if not images:
        raise UsageError("calibration needs images")
    rng = np.random.default_rng(seed)
    views: list[list[Grey]] = [[], []]
    for image in images:
        photo = resize_grey(image, size)
        views[0].append(photo)
        views[1].append(draw_view(rng, photo)[1])
    tensors = tuple(
        torch.from_numpy(np.ascontiguousarray(view))[None, None].float() / 255
        for view in (*views[0], *views[1])
    )
    if model.matcher is None or model.extractor is None:
        return Inputs(images=tensors)
    return Inputs(images=tensors, sides=_sides(model, tensors, size))


def draw_view(rng: np.random.Generator, photo: Grey) -> tuple[NDArray[np.float64], Grey]:
    """A homography (3, 3) and the photograph (H, W) warped by it to its own size, in other
    light."""
    size = (photo.shape[1], photo.shape[0])
    homography = sample_homography(rng, size, HomographyRange())
    return homography, augment_photometric(rng, warp_image(photo, homography, size), 0.5)


@torch.no_grad()
def _sides(model: Model, images: Sequence[Tensor], size: tuple[int, int]) -> tuple[Side, Side]:
    """The same number of keypoints in all views, so that no padding falsifies statistics."""
    assert model.extractor is not None
    how = model.processing
    most = how.max_keypoints if how.max_keypoints > 0 else 512
    counts: list[int] = []
    found: list[Side] = []
    for image in images:
        logits, dense = model.extractor.forward_raw(image)
        heat = score_map(logits)
        points, scores, valid = strongest(
            heat, most, how.nms_radius, how.remove_borders, how.keypoint_threshold
        )
        if how.subpixel:
            points = points + subpixel_offsets(heat, points)
        sampled = sample_descriptors(F.normalize(dense, dim=1), points, how.descriptor_sampling)
        normalized = normalize_keypoints(points, points.new_tensor([size]))
        counts.append(how.num_kept(scores[valid].numpy()))
        found.append((normalized, scores, sampled))
    half = len(found) // 2
    both = [min(pair) for pair in zip(counts[:half], counts[half:], strict=True)]
    kept = [i for i, count in enumerate(both) if count >= _FEWEST_KEYPOINTS]
    if not kept:
        raise UsageError("no keypoints are found in the images for calibration: use others")
    count = min(both[i] for i in kept)

    def side(start: int) -> Side:
        views = [found[i + start] for i in kept]
        points, scores, descriptors = (
            torch.cat([view[part][:, :count] for view in views]) for part in range(3)
        )
        return points, scores, descriptors

    return side(0), side(half)


@dataclass
class Observed:
    """An activation as it was seen: its ends, and a sample of its values."""

    low: float = float("inf")
    high: float = float("-inf")
    parts: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def values(self) -> NDArray[np.float32]:
        """The sample, (N,)."""
        return np.concatenate(self.parts)


class Observer:
    """A hook that notes what passes; every call gives the same share of the sample."""

    def __init__(self, calls: int) -> None:
        self.seen: dict[str, Observed] = {}
        self._each = max(256, _SAMPLES // max(1, calls))

    def __call__(self, name: str, value: Tensor) -> Tensor:
        seen = self.seen.setdefault(name, Observed())
        flat = value.detach().float().reshape(-1)
        seen.low, seen.high = min(seen.low, float(flat.min())), max(seen.high, float(flat.max()))
        # An odd step, so that the sample runs through all channels.
        step = max(1, flat.numel() // self._each) | 1
        seen.parts.append(flat[::step].numpy().copy())
        return value


@torch.no_grad()
def observe(model: Model, inputs: Inputs, names: Collection[str]) -> dict[str, Observed]:
    """Run the networks on the inputs and note the activations of these names."""
    seen: dict[str, Observed] = {}
    if model.extractor is not None:
        observer = Observer(len(inputs.images))
        run_extractor(with_hooks(model.extractor, observer, names), inputs)
        seen |= observer.seen
    if model.matcher is not None and inputs.sides is not None:
        observer = Observer(2 * len(inputs.sides[0][0]))
        run_matcher(with_hooks(model.matcher, observer, names), inputs)
        seen |= observer.seen
    return seen


def run_extractor(network: SuperPoint, inputs: Inputs) -> None:
    """Run it on every image, one by one."""
    for image in inputs.images:
        network.forward_raw(image)


def run_matcher(network: SuperGlue, inputs: Inputs) -> None:
    """Run it on every pair, one by one."""
    assert inputs.sides is not None
    for i in range(len(inputs.sides[0][0])):
        pair = [part[i : i + 1] for side in inputs.sides for part in side]
        network(*pair)
