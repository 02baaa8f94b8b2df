"""Scenes with the keypoints of a trained extractor, found as in a session.

On a CPU, finding keypoints takes longer than training the matcher on them. Worker processes find
them with ONNX Runtime in a quarter of the time of PyTorch.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from featherglue.artifact.format import Artifact
from featherglue.data.detector_labels import Sample
from featherglue.data.real_scenes import MixedScenes
from featherglue.data.scenes import Scenes
from featherglue.matching.keypoints import decode_features
from featherglue.options import with_overrides
from featherglue.runtime.base import Runtime, open_runtime
from featherglue.train.losses.keypoint_pairs import KEYPOINT_THRESHOLD


class ExtractedScenes:
    """Items of `Scenes` or `MixedScenes` with keypoints.

    Item `i` depends on the seed and on `i` only.

    An item holds the scene, without its images unless `keep_images`; keypoints0, keypoints1 (N, 2)
    float32 xy in pixels; scores0, scores1 (N,) float32; descriptors0, descriptors1 (N, D) float32;
    valid0, valid1 (N,) bool. The strongest keypoints come first, padding comes last.

    Args:
        scenes: the scenes.
        artifact: artifact with an extractor, loaded from a folder.
        max_keypoints: N.
        keep_images: whether items have the images of the scene, too.
    """

    def __init__(
        self,
        scenes: Scenes | MixedScenes,
        artifact: Artifact,
        max_keypoints: int,
        keep_images: bool = False,
    ) -> None:
        self.scenes, self.artifact, self.keep_images = scenes, artifact, keep_images
        self.processing = with_overrides(
            artifact.processing,
            {"max_keypoints": max_keypoints, "keypoint_threshold": KEYPOINT_THRESHOLD},
        )

    @cached_property
    def _runtime(self) -> Runtime:  # opened in the worker process
        return open_runtime(self.artifact, "onnxruntime", 1)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes[index]
        dropped = () if self.keep_images else ("image0", "image1")
        sample: Sample = {k: scene[k] for k in scene if k not in dropped}
        for name in "01":
            image = np.asarray(scene[f"image{name}"][0], np.uint8)
            size = (image.shape[1], image.shape[0])
            maps = self._runtime.extract(image)
            found = decode_features(*maps, size, self.processing)
            count, length = len(found[0]), self.processing.max_keypoints
            for kind, values in zip(("keypoints", "scores", "descriptors"), found, strict=True):
                padded = np.zeros((length, *values.shape[1:]), np.float32)
                padded[:count] = values
                sample[f"{kind}{name}"] = padded
            sample[f"valid{name}"] = np.arange(length) < count
        return sample
