"""Compression of the dense model by a recipe, with fine-tuning by distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from featherglue.compression.compress import compress
from featherglue.compression.finetuning import finetune
from featherglue.compression.match_threshold import ThresholdConfig
from featherglue.compression.recipe import Recipe
from featherglue.compression.step_types import Finetune, FinetuneConfig, StepResult
from featherglue.io.gray import Gray
from featherglue.models.model import Model
from featherglue.train.engine.run_settings import stage_from_dict
from featherglue.train.stages.distill_stage import DistillStage

_WARMUP = 20  # steps, if the number of training steps is unknown


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings of fine-tuning.

    Attributes:
        teacher: folder of the dense model.
        images: folder of photographs.
        settings: plain values of a `DistillStage`. Settings of a recipe step take precedence.
        minutes: total time of one experiment.
        steps: number of steps of each fine-tuning, which stops after twice `minutes` at the latest.
            0 takes as many steps as fit into `minutes`.
        device: "cpu" or "cuda".
    """

    teacher: Path
    images: Path
    settings: Mapping[str, Any]
    minutes: float
    steps: int = 0
    device: str = "cpu"

    def finetuner(self, recipe: Recipe, folder: Path) -> Finetune:
        """Return the function of the steps "finetune" of a recipe. Runs in `folder` continue."""
        total = sum(_num_steps(step) for step in recipe.steps if isinstance(step, FinetuneConfig))
        count = 0

        def run(model: Model, config: FinetuneConfig, original: Model | None) -> StepResult:
            nonlocal count
            count += 1
            torch.manual_seed(0)
            fraction = _num_steps(config) / total
            run_folder = folder / f"tuning-{count}"
            minutes = self.minutes * fraction
            if self.steps:
                print(f"    {self.steps} steps of {config.network}", flush=True)
                minutes = 2 * minutes if minutes else float("inf")
            else:
                print(f"    {minutes:.1f} min of {config.network}", flush=True)
            trained = finetune(
                model,
                self.stage(config, self.steps),
                self.images,
                run_folder,
                original=original,
                prune=config.prune,
                schedule=config.schedule,
                minutes=minutes,
                device=self.device,
            )
            record = trained.provenance.recipe[len(model.provenance.recipe) :]
            return StepResult(trained, record)

        return run

    def stage(self, config: FinetuneConfig, steps: int) -> DistillStage:
        """Return the settings of a fine-tuning. Raises ConfigError for invalid settings."""
        own = dict(config.settings)
        loop = {**self.settings.get("loop", {}), **own.pop("loop", {}), "steps": steps}
        if steps:
            loop["warmup"] = min(loop.get("warmup", 200), steps // 10)
        else:
            loop.setdefault("warmup", _WARMUP)
        data = {
            "validation": {"fraction": 0.0},
            **self.settings,
            **own,
            "loop": loop,
            "teacher": str(self.teacher),
            "part": config.network,
        }
        return stage_from_dict(DistillStage, data, "settings")


def make_model(
    dense: Model,
    recipe: Recipe,
    calibration: Sequence[Gray],
    tuning: Tuning | None,
    folder: Path,
    parent: str,
    size: tuple[int, int],
) -> Model:
    """Return a compressed model.

    Args:
        dense: the dense model.
        recipe: the recipe.
        calibration: photographs, (H, W) gray uint8.
        tuning: settings of fine-tuning. None leaves out fine-tuning and the choice of the match
            threshold after it.
        folder: folder of the training runs.
        parent: hash of the dense model.
        size: (width, height) in pixels to which the photographs are resized.
    """
    if tuning is None:
        left_out = FinetuneConfig, ThresholdConfig
        kept = tuple(step for step in recipe.steps if not isinstance(step, left_out))
        recipe = replace(recipe, steps=kept)
    finetuner = None if tuning is None else tuning.finetuner(recipe, folder)
    return compress(
        dense,
        recipe,
        calibration_images=calibration,
        image_size=size,
        finetune=finetuner,
        parent=parent,
    )


def _num_steps(step: FinetuneConfig) -> int:
    """Return the number of steps in the recipe, which determines the fraction of the minutes."""
    return int(step.settings.get("loop", {}).get("steps", 1))
