"""Scenes with the keypoints of a trained extractor, as a running session finds them.

On a CPU the matcher's training spends more on finding keypoints in PyTorch than on learning; here
the processes that make the data find them in ONNX Runtime, in a quarter of the time.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from featherglue.artifact.format import Artifact
from featherglue.data.detector_labels import Sample
from featherglue.data.scenes import Scenes
from featherglue.matching.keypoints import decode_features
from featherglue.options import with_overrides
from featherglue.runtime.base import Runtime, open_runtime

# Lower than in use: the matcher also learns on what is hardly a keypoint.
LOWEST_SCORE = 0.001


class ExtractedScenes:
    """Items of `Scenes` without their images, but with keypoints; item `i` depends on the seed
    and `i` alone.

    An item holds planes0, planes1 and maps of the scene; keypoints0, keypoints1 (N, 2) float32 xy;
    scores0, scores1 (N,); descriptors0, descriptors1 (N, D); valid0, valid1 (N,) bool. The
    strongest come first, and padding last.

    Args:
        artifact: with an extractor; from a folder. most: N.
    """

    def __init__(self, scenes: Scenes, artifact: Artifact, most: int) -> None:
        self.scenes, self.artifact = scenes, artifact
        self.processing = with_overrides(
            artifact.processing, {"max_keypoints": most, "keypoint_threshold": LOWEST_SCORE}
        )

    @cached_property
    def _runtime(self) -> Runtime:  # of the process that uses it
        return open_runtime(self.artifact, "onnxruntime", 1)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes[index]
        sample: Sample = {name: scene[name] for name in ("planes0", "planes1", "maps")}
        for name in "01":
            image = np.asarray(scene[f"image{name}"][0], np.uint8)
            size = (image.shape[1], image.shape[0])
            maps = self._runtime.extract(image)
            found = decode_features(*maps, size, self.processing)
            count, most = len(found[0]), self.processing.max_keypoints
            for kind, values in zip(("keypoints", "scores", "descriptors"), found, strict=True):
                padded = np.zeros((most, *values.shape[1:]), np.float32)
                padded[:count] = values
                sample[f"{kind}{name}"] = padded
            sample[f"valid{name}"] = np.arange(most) < count
        return sample
