"""The training stages by name, as `featherglue train` runs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherglue.models.model import Model
from featherglue.train.engine.log_files import BEST, CURVES, LAST, LOG
from featherglue.train.stages.adapt_stage import AdaptStage, adapt, label_file
from featherglue.train.stages.distill_stage import DistillStage, train_distill
from featherglue.train.stages.feature_distillation_stage import (
    FeatureDistillationStage,
    train_feature_distillation,
)
from featherglue.train.stages.shapes_stage import ShapesStage, train_shapes
from featherglue.train.stages.superglue_stage import SuperGlueStage, train_superglue
from featherglue.train.stages.superpoint_stage import SuperPointStage, train_superpoint

Images = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Attributes:
        config: class of its configuration.
        run: called with configuration, photographs, folder and options; returns the files that it
            wrote, by kind.
        uses_images: whether it learns from photographs.
        writes_labels: whether it writes labels instead of a model.
    """

    config: type[Any]
    run: Callable[..., dict[str, Path]]
    uses_images: bool = True
    writes_labels: bool = False

    def resume_files(self, folder: Path) -> list[Path]:
        """The files from which a run in `folder` resumes; it holds a run if one exists."""
        return [label_file(folder)] if self.writes_labels else [folder / LAST]


def _run_adapt(stage: AdaptStage, images: Any, folder: Path, **options: Any) -> dict[str, Path]:
    adapt(stage, images, folder, **options)
    return {"labels": label_file(folder)}


def _run_training(train_stage: Callable[..., Model]) -> Callable[..., dict[str, Path]]:
    def run(stage: Any, images: Images, folder: Path, **options: Any) -> dict[str, Path]:
        train_stage(stage, images, folder, **options)
        return _written_files(folder)

    return run


def _written_files(folder: Path) -> dict[str, Path]:
    # Without best.pt, `best` is from an earlier run.
    best = {"best": folder / "best"} if (folder / BEST).exists() else {}
    files = {
        "output": folder / "model",
        **best,
        "log": folder / LOG,
        "curves": folder / CURVES,
    }
    return {name: path for name, path in files.items() if path.exists()}


STAGES: dict[str, Stage] = {
    "shapes": Stage(ShapesStage, _run_training(train_shapes), uses_images=False),
    "adapt": Stage(AdaptStage, _run_adapt, writes_labels=True),
    "superpoint": Stage(SuperPointStage, _run_training(train_superpoint)),
    "superglue": Stage(SuperGlueStage, _run_training(train_superglue)),
    "distill": Stage(DistillStage, _run_training(train_distill)),
    "distill-features": Stage(FeatureDistillationStage, _run_training(train_feature_distillation)),
}
