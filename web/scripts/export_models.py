"""Export the shipped models as end-to-end graphs for the page.

    python web/scripts/export_models.py web/public/models

Graphs with fewer places for keypoints are faster, so that each model has several.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.export.pipeline import PipelineConfig, export_pipeline

MODELS = {"fast": (256, 512, 1024), "balanced": (512, 1024)}
PARTS = ("extract", "match")


def main() -> None:
    """Write the graphs and their list, index.json."""
    folder = Path(sys.argv[1])
    models = []
    for name, counts in MODELS.items():
        artifact = load_artifact(find_model(name))
        variants = []
        for count in counts:
            target = folder / f"{name}-{count}"
            export_pipeline(artifact, target, PipelineConfig(num_keypoints=count))
            (target / "pipeline.onnx").unlink()  # the page runs the two others
            paths = {part: f"{target.name}/{part}.onnx" for part in PARTS}
            variants.append({"numKeypoints": count, **paths})
        models.append({"name": name, "variants": variants})
    text = json.dumps(models, indent=1)
    (folder / "index.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
