"""Published form of a trained model: batch normalization folded, weights in float16."""

from __future__ import annotations

import os
from dataclasses import replace

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact, save_artifact


def package(
    artifact: Artifact,
    folder: str | os.PathLike[str],
    *,
    fold: bool = True,
    float16: bool = True,
) -> Artifact:
    """Write a copy of a trained model for publication.

    Its provenance names the steps "fold-batch-norm" and "store-float16", and the hash of the
    trained model as parent.

    Args:
        artifact: the trained model, loaded from its folder.
        folder: where to write.
        fold: fold batch normalization into the layers before it. The outputs stay equal up to
            rounding, and the model cannot be trained on.
        float16: store the weights as float16 instead of float32.

    Returns:
        The written artifact.

    Raises:
        OutputError: the folder cannot be written.
    """
    packaged = fold_batch_norm(artifact) if fold else artifact
    steps = ["fold-batch-norm"] * fold + ["store-float16"] * float16
    recipe = (*artifact.provenance.recipe, *({"step": name} for name in steps))
    provenance = replace(artifact.provenance, recipe=recipe, parent=artifact.hash)
    packaged = replace(packaged, provenance=provenance)
    return save_artifact(folder, packaged, "float16" if float16 else "float32")
