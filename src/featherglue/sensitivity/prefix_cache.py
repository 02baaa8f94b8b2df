"""Cache of intermediate activations for models that differ from an original in few layers.

The activations between the layers of the original are cached for every input. A changed model has
the same activations before its first changed layer, so that only the remaining layers run.
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
State = tuple[Tensor, ...]  # input of a stage: one tensor, or one for each view
_HEADS = len(ENCODER)  # stage of both heads of the extractor


class StageCache:
    """Inputs of the stages of a network, for each input of the network.

    Late stages are cached first, until the limit is reached.

    Args:
        max_bytes: maximum number of bytes for each input of the network.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._states: dict[tuple[str, int], State] = {}

    def store(self, key: str, states: Sequence[State]) -> None:
        """Store the inputs of the stages 1, 2, … for one input of the network.

        Args:
            key: digest of the input of the network.
            states: inputs of the stages.
        """
        left = self.max_bytes
        for stage, state in reversed(list(enumerate(states, 1))):
            left -= sum(tensor.nbytes for tensor in state)
            if left < 0:
                return
            self._states[key, stage] = tuple(tensor.clone() for tensor in state)

    def latest(self, key: str, stage: int) -> tuple[int, State] | None:
        """Return the last cached stage up to `stage` and its input, or None."""
        for earlier in range(stage, 0, -1):
            if (key, earlier) in self._states:
                return earlier, self._states[key, earlier]
        return None


class PrefixCache:
    """The cached activations of an original model.

    Args:
        original: model with an extractor and a matcher.
        num_images: expected number of images.
        num_pairs: expected number of pairs.
        max_bytes: maximum number of bytes of all cached activations.
    """

    def __init__(self, original: Model, num_images: int, num_pairs: int, max_bytes: int) -> None:
        self.original = original
        # The features of a pair need far fewer bytes than the activations of an image.
        self.extractor = StageCache(3 * max_bytes // 4 // max(1, num_images))
        self.matcher = StageCache(max_bytes // 4 // max(1, num_pairs))

    def runtime(self, model: Model) -> CachedRuntime:
        """Return a runtime of a model that uses the cache. The original fills the cache.

        Raises:
            UsageError: the model lacks a network.
        """
        return CachedRuntime(self, model)


class CachedRuntime:
    """A PyTorch runtime (see `runtime.base`) that starts at the first changed stage.

    The stages of an extractor are the convolutions of its encoder and then both heads together.
    The stages of a matcher are the keypoint encoding, its layers and the final projection.

    Attributes:
        first_extractor: first stage of the extractor that differs from the original, or the number
            of stages.
        first_matcher: the same for the matcher.

    Raises:
        UsageError: the model lacks a network.
    """

    name = "torch"
    bfloat16 = False

    def __init__(self, cache: PrefixCache, model: Model) -> None:
        if model.extractor is None or model.matcher is None:
            raise UsageError("scoring requires an extractor and a matcher; this model lacks one")
        self.threads = torch.get_num_threads()
        self._cache, self._model = cache, model
        original = cache.original
        assert original.extractor is not None and original.matcher is not None
        self._fills_cache = model is original
        depth = len(model.matcher.config.layers)
        same = original.quantization.activations == model.quantization.activations
        self.first_extractor = self.first_matcher = 0
        if same and original.extractor.config == model.extractor.config:
            self.first_extractor = _first_difference(
                original.extractor, model.extractor, _extractor_stage, _HEADS + 1
            )
        if same and original.matcher.config == model.matcher.config:
            self.first_matcher = _first_difference(
                original.matcher, model.matcher, _matcher_stage(depth), depth + 2
            )

    @property
    def same_extractor(self) -> bool:
        """Whether the extractor equals that of the original."""
        return self.first_extractor > _HEADS

    @torch.inference_mode()
    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        """Return scores (H, W) in [0, 1] and descriptors (Hc, Wc, D) of an image (H, W)."""
        network = self._model.extractor
        assert network is not None
        key = _digest(image)
        found = self._cache.extractor.latest(key, min(self.first_extractor, _HEADS))
        if found is not None:
            stage, (x,) = found
        else:
            stage = 0
            x = torch.from_numpy(np.ascontiguousarray(image))[None, None].float() / 255
        if self._fills_cache:
            states: list[State] = []
            for i in range(stage, _HEADS):
                x = network.encode(x, i, i + 1)
                states.append((x,))
            if stage == 0:
                self._cache.extractor.store(key, states)
        else:
            x = network.encode(x, stage)
        scores = score_map(network.detect(x))[0].numpy()
        return scores, network.describe(x)[0].permute(1, 2, 0).contiguous().numpy()

    @torch.inference_mode()
    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        """Return the score matrix (N0, N1) as in `runtime.base.Runtime.match`."""
        network = self._model.matcher
        assert network is not None
        depth = len(network.config.layers)
        arrays = (keypoints0, descriptors0, keypoints1, descriptors1)
        key = _digest(*arrays)
        found = self._cache.matcher.latest(key, min(self.first_matcher, depth + 1))
        if found is not None:
            stage, (x0, x1) = found
        else:
            stage = 1
            k0, d0, k1, d1 = (torch.from_numpy(np.ascontiguousarray(a))[None] for a in arrays)
            x0 = network.encode(k0[..., :2], k0[..., 2], d0)
            x1 = network.encode(k1[..., :2], k1[..., 2], d1)
        if self._fills_cache and found is None:
            states: list[State] = [(x0, x1)]
            for i in range(depth):
                x0, x1 = network.attend(x0, x1, start=i, stop=i + 1)
                states.append((x0, x1))
            self._cache.matcher.store(key, states)
        else:
            x0, x1 = network.attend(x0, x1, start=stage - 1)
        matrix: Float = network.similarity(x0, x1)[0].numpy()
        return matrix


def _first_difference(
    original: nn.Module, model: nn.Module, stage_of: Callable[[str], int], num_stages: int
) -> int:
    """Return the first stage in which a tensor differs, or `num_stages` if none does."""
    ours: Mapping[str, Any] = original.state_dict()
    theirs: Mapping[str, Any] = model.state_dict()
    if ours.keys() != theirs.keys():
        return 0
    return min(
        (stage_of(name) for name in ours if not torch.equal(ours[name], theirs[name])),
        default=num_stages,
    )


def _extractor_stage(tensor: str) -> int:
    name = tensor.partition(".")[0].removeprefix("conv").removeprefix("bn")
    return ENCODER.index(name) if name in ENCODER else _HEADS


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
