"""PyTorch on the CPU: the reference for the other runtimes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from featherglue.artifact.format import Artifact
from featherglue.machine import num_cores
from featherglue.models.model import Model
from featherglue.models.superpoint import score_map

Float = NDArray[np.float32]


class TorchRuntime:
    """Runs the PyTorch networks. `threads` sets the threads of PyTorch, for the whole process."""

    name = "torch"
    bfloat16 = False

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        self.threads = threads or num_cores()
        self._model = Model.from_artifact(artifact)
        if threads is not None:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        assert self._model.extractor is not None
        tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None].float() / 255
        logits, descriptors = self._model.extractor.forward_raw(tensor)
        scores = score_map(logits)[0].numpy()
        return scores, descriptors[0].permute(1, 2, 0).contiguous().numpy()

    @torch.inference_mode()
    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        assert self._model.matcher is not None
        arrays = (keypoints0, descriptors0, keypoints1, descriptors1)
        k0, d0, k1, d1 = (torch.from_numpy(np.ascontiguousarray(a))[None] for a in arrays)
        scores = self._model.matcher(k0[..., :2], k0[..., 2], d0, k1[..., :2], k1[..., 2], d1)
        matrix: Float = scores[0].numpy()
        return matrix
