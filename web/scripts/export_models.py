"""Export the shipped models for the page, and whole end-to-end graphs for its tests.

    python web/scripts/export_models.py web/public/models web/build/models

The page finds keypoints itself, in the maps of the extractor's network: in a graph that takes
longer than the network. Matching graphs with fewer places for keypoints are faster, so that each
model has several.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from featherglue.artifact.format import Artifact, load_artifact
from featherglue.artifact.registry import find_model
from featherglue.export.cache import current_graphs
from featherglue.export.pipeline import PipelineConfig, export_pipeline

MODELS = {"fast": (256, 512, 1024), "balanced": (512, 1024)}
DETECTION = (
    "nms_radius",
    "keypoint_threshold",
    "high_keypoint_threshold",
    "high_threshold_after",
    "remove_borders",
    "subpixel",
)


def main() -> None:
    """Write the graphs and their list, index.json."""
    folder, whole = map(Path, sys.argv[1:])
    models = []
    for name, counts in MODELS.items():
        artifact = load_artifact(find_model(name))
        variants = []
        for count in counts:
            source, target = whole / f"{name}-{count}", folder / f"{name}-{count}"
            export_pipeline(artifact, source, PipelineConfig(num_keypoints=count))
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / "match.onnx", target)
            variants.append({"numKeypoints": count, "match": f"{target.name}/match.onnx"})
        shutil.copy(current_graphs(artifact)["extractor"], folder / f"{name}.onnx")
        models.append(
            {
                "name": name,
                "maps": f"{name}.onnx",
                "detection": detection(artifact),
                "variants": variants,
            }
        )
    text = json.dumps(models, indent=1)
    (folder / "index.json").write_text(text + "\n", encoding="utf-8")


def detection(artifact: Artifact) -> dict[str, Any]:
    """The settings of detection, see web/src/engine/detection.ts."""
    if artifact.processing.descriptor_sampling != "exact":
        raise ValueError("the page samples descriptors at the exact centers of cells only")
    settings = dataclasses.asdict(artifact.processing)
    return {name: settings[name] for name in DETECTION}


if __name__ == "__main__":
    main()
