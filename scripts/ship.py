"""Make a trained model ready to ship: batch normalisation folded, stored as float16, with graphs.

python scripts/ship.py runs/superglue/model src/featherglue/weights/fast
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from featherglue.artifact import bytes_on_disk, load_artifact, save_artifact
from featherglue.folding import fold_batch_norm
from featherglue.runtime.export import export_onnx


def main() -> None:
    """Fold, store and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    trained = load_artifact(options.model)
    steps = (*trained.provenance.recipe, {"step": "fold-batch-norm"}, {"step": "store-float16"})
    provenance = replace(trained.provenance, recipe=steps, parent=trained.hash)
    folded = replace(fold_batch_norm(trained), provenance=provenance)
    shipped = save_artifact(options.output, folded, dtype="float16")
    export_onnx(shipped, options.output)
    print({**bytes_on_disk(shipped), "total": sum(bytes_on_disk(shipped).values())})


if __name__ == "__main__":
    main()
