"""Networks that go on from the first layer that differs from an original's.

What flows between the layers of the original is kept for every input. A model that differs from
it in one layer sees the same before that layer, so that only the rest runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherglue.artifact.layers import ENCODER
from featherglue.errors import UsageError
from featherglue.models.model import Model
from featherglue.models.superpoint import score_map

Float = NDArray[np.float32]
State = tuple[Tensor, ...]
_HEADS = len(ENCODER)


class States:
    """What enters the stages of a network, by input: the late stages first, as far as there is
    room.

    Args:
        room: bytes for one input.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: dict[tuple[str, int], State] = {}

    def keep(self, key: str, states: Sequence[State]) -> None:
        """Keep what entered the stages 1, 2, … of one input."""
        left = self.room
        for stage, state in reversed(list(enumerate(states, 1))):
            left -= sum(tensor.nbytes for tensor in state)
            if left < 0:
                return
            self._kept[key, stage] = tuple(tensor.clone() for tensor in state)

    def latest(self, key: str, stage: int) -> tuple[int, State] | None:
        """The last stage up to this one whose state is kept, and the state; None without any."""
        for earlier in range(stage, 0, -1):
            if (key, earlier) in self._kept:
                return earlier, self._kept[key, earlier]
        return None


class Prefixes:
    """An original model, and what flows through it.

    Args:
        original: an extractor and a matcher.
        images, pairs: how many of each there will be; memory: bytes for all that is kept.

    """

    def __init__(self, original: Model, images: int, pairs: int, memory: int) -> None:
        self.original = original
        # A pair of keypoint sets needs far less than an image.
        self.extractor = States(3 * memory // 4 // max(1, images))
        self.matcher = States(memory // 4 // max(1, pairs))

    def runtime(self, model: Model) -> ResumingRuntime:
        """Runs a model, from where it differs on. The original itself fills what is kept.

        Raises:
            UsageError: a network is missing.
        """
        return ResumingRuntime(self, model)


class ResumingRuntime:
    """A runtime (see `runtime.base`) in PyTorch, with the threads that PyTorch has.

    Attributes:
        first_extractor, first_matcher: the first stage that differs from the original's, or one
            more than there are. Stages of an extractor are its encoder's convolutions and both
            heads together; of a matcher the encoding, its layers and the comparison.
    """

    name = "torch"

    def __init__(self, prefixes: Prefixes, model: Model) -> None:
        if model.extractor is None or model.matcher is None:
            raise UsageError("pairs are matched by an extractor and a matcher; one is missing here")
        self._prefixes, self._model = prefixes, model
        original = prefixes.original
        assert original.extractor is not None and original.matcher is not None
        self._records = model is original
        depth = len(model.matcher.config.layers)
        alike = original.quantization.activations == model.quantization.activations
        self.first_extractor = self.first_matcher = 0
        if alike and original.extractor.config == model.extractor.config:
            self.first_extractor = _first_difference(
                original.extractor, model.extractor, _extractor_stage, _HEADS + 1
            )
        if alike and original.matcher.config == model.matcher.config:
            self.first_matcher = _first_difference(
                original.matcher, model.matcher, _matcher_stage(depth), depth + 2
            )

    @property
    def extracts_the_same(self) -> bool:
        """Whether the extractor is the original's."""
        return self.first_extractor > _HEADS

    @torch.inference_mode()
    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        """Scores (H, W) in [0, 1] and descriptors (Hc, Wc, D) of an image (H, W)."""
        network = self._model.extractor
        assert network is not None
        key = _digest(image)
        found = self._prefixes.extractor.latest(key, min(self.first_extractor, _HEADS))
        if found is not None:
            stage, (x,) = found
        else:
            stage = 0
            x = torch.from_numpy(np.ascontiguousarray(image))[None, None].float() / 255
        if self._records:
            states: list[State] = []
            for i in range(stage, _HEADS):
                x = network.encode(x, i, i + 1)
                states.append((x,))
            if stage == 0:
                self._prefixes.extractor.keep(key, states)
        else:
            x = network.encode(x, stage)
        scores = score_map(network.detect(x))[0].numpy()
        return scores, network.describe(x)[0].permute(1, 2, 0).contiguous().numpy()

    @torch.inference_mode()
    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        """The matrix of scores (N0, N1); keypoints as (x, y, score), normalised."""
        network = self._model.matcher
        assert network is not None
        depth = len(network.config.layers)
        arrays = (keypoints0, descriptors0, keypoints1, descriptors1)
        key = _digest(*arrays)
        found = self._prefixes.matcher.latest(key, min(self.first_matcher, depth + 1))
        if found is not None:
            stage, (x0, x1) = found
        else:
            stage = 1
            k0, d0, k1, d1 = (torch.from_numpy(np.ascontiguousarray(a))[None] for a in arrays)
            x0 = network.encode(k0[..., :2], k0[..., 2], d0)
            x1 = network.encode(k1[..., :2], k1[..., 2], d1)
        if self._records and found is None:
            states: list[State] = [(x0, x1)]
            for i in range(depth):
                x0, x1 = network.attend(x0, x1, start=i, stop=i + 1)
                states.append((x0, x1))
            self._prefixes.matcher.keep(key, states)
        else:
            x0, x1 = network.attend(x0, x1, start=stage - 1)
        matrix: Float = network.similarity(x0, x1)[0].numpy()
        return matrix


def _first_difference(
    original: nn.Module, model: nn.Module, stage_of: Callable[[str], int], count: int
) -> int:
    """The first stage in which any tensor differs; `count` where none does."""
    ours: Mapping[str, Any] = original.state_dict()
    theirs: Mapping[str, Any] = model.state_dict()
    if ours.keys() != theirs.keys():
        return 0
    return min(
        (stage_of(name) for name in ours if not torch.equal(ours[name], theirs[name])),
        default=count,
    )


def _extractor_stage(tensor: str) -> int:
    own = tensor.partition(".")[0].removeprefix("conv").removeprefix("bn")
    return ENCODER.index(own) if own in ENCODER else _HEADS


def _matcher_stage(depth: int) -> Callable[[str], int]:
    def stage(tensor: str) -> int:
        if tensor.startswith("gnn.layers."):
            return 1 + int(tensor.split(".")[2])
        return 0 if tensor.startswith(("kenc.", "input_proj.")) else depth + 1

    return stage


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
