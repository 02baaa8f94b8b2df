"""Make a trained model ready to ship: batch normalisation folded, stored as float16, with graphs.

python scripts/ship.py runs/superglue/model src/featherglue/weights/fast
python scripts/ship.py runs/dense-superglue/model checkpoints/dense --as-trained    # float16 alone
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import load_artifact, save_artifact
from featherglue.errors import FeatherglueError
from featherglue.export.networks import export_onnx


def main() -> None:
    """Fold, store and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--as-trained", action="store_true", help="neither fold nor export")
    options = parser.parse_args()
    trained = load_artifact(options.model)
    made = trained if options.as_trained else fold_batch_norm(trained)
    done = ["store-float16"] if options.as_trained else ["fold-batch-norm", "store-float16"]
    steps = (*trained.provenance.recipe, *({"step": name} for name in done))
    provenance = replace(trained.provenance, recipe=steps, parent=trained.hash)
    made = replace(made, provenance=provenance)
    shipped = save_artifact(options.output, made, dtype="float16")
    if not options.as_trained:
        export_onnx(shipped, options.output)
    print({**shipped.file_sizes(), "total": sum(shipped.file_sizes().values())})


if __name__ == "__main__":
    try:
        main()
    except FeatherglueError as error:
        sys.exit(f"error: {error}")
