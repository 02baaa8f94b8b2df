"""The facts about a saved model that commands print, as plain values."""

from __future__ import annotations

import dataclasses
from typing import Any

from featherglue.artifact.format import Artifact
from featherglue.config import to_dict


def describe(
    artifact: Artifact,
    image_size: tuple[int, int],
    num_keypoints: int,
    baseline: Artifact | None = None,
) -> dict[str, Any]:
    """Return the parameters, cost, size and provenance of a model; see `compression.cost`.

    Args:
        artifact: a saved model.
        image_size: (width, height) in pixels for which MACs are counted.
        num_keypoints: number of keypoints of each image for which MACs are counted.
        baseline: model to compare sizes with, in dense float32; the model itself by default.

    Returns:
        Among others `macs`, the MACs of one extraction and one match, `macs_effective`, the MACs
        with non-zero weights, and `study_bytes`, the bytes counted in the way of the study.
    """
    from featherglue.compression.cost import model_cost

    cost = model_cost(artifact, baseline, image_size, num_keypoints)
    return {
        "parameters": cost.parameters,
        "nonzero": cost.nonzero,
        "macs": sum(cost.macs.values()),
        "macs_extractor": cost.macs["extractor"],
        "macs_matcher": cost.macs["matcher"],
        "macs_effective": sum(cost.effective_macs.values()),
        "image_size": list(image_size),
        "max_keypoints": num_keypoints,
        "bytes_on_disk": cost.bytes_on_disk,
        "files": artifact.file_sizes(),
        "study_bytes": cost.study_bytes,
        "disk_ratio": cost.disk_ratio,
        "study_ratio": cost.study_ratio,
        "integer_layers": [layer.name for layer in cost.layers if layer.integer],
        "float_layers": {
            layer.name: layer.float_reason for layer in cost.layers if layer.float_reason
        },
        "saturates_without_vnni": cost.saturates,
        "hash": artifact.hash,
        "architecture": to_dict(artifact.architecture),
        "processing": to_dict(artifact.processing),
        "provenance": to_dict(artifact.provenance),
        "layers": [dataclasses.asdict(layer) for layer in cost.layers],
    }
