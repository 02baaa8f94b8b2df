"""Making a model by a recipe, with fine-tuning by distillation from the dense one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featherglue.compression.compress import compress
from featherglue.compression.finetuning import finetune
from featherglue.compression.match_threshold import ThresholdConfig
from featherglue.compression.recipe import Recipe
from featherglue.compression.step_types import Finetune, FinetuneConfig
from featherglue.config import from_dict
from featherglue.models.model import Model
from featherglue.train.stages.distill import DistillStage

Grey = NDArray[np.uint8]
_WARMUP = 20  # steps, where it is not known how many there will be


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How models are fine-tuned.

    Attributes:
        teacher: folder of the dense model. images: folder of the photographs.
        settings: plain values of a `DistillStage`; those of a recipe's step count more.
        minutes: for one experiment in all. steps: of each fine-tuning; 0 takes what fits them,
            otherwise it is stopped after twice as long.
        device: "cpu" or "cuda".
    """

    teacher: Path
    images: Path
    settings: Mapping[str, Any]
    minutes: float
    steps: int = 0
    device: str = "cpu"

    def finetuner(self, recipe: Recipe, folder: Path) -> Finetune:
        """What does the steps "finetune" of a recipe; runs that `folder` holds go on."""
        total = sum(_steps_of(step) for step in recipe.steps if isinstance(step, FinetuneConfig))
        count = 0

        def run(model: Model, config: FinetuneConfig, original: Model | None) -> Model:
            nonlocal count
            count += 1
            torch.manual_seed(0)
            share = _steps_of(config) / total
            place = folder / f"tuning-{count}"
            minutes = self.minutes * share
            if self.steps:
                print(f"    {self.steps} steps of {config.network}", flush=True)
                minutes = 2 * minutes if minutes else float("inf")
            else:
                print(f"    {minutes:.1f} min of {config.network}", flush=True)
            return finetune(
                model,
                self.stage(config, self.steps),
                self.images,
                place,
                original=original,
                prune=config.prune,
                schedule=config.schedule,
                minutes=minutes,
                device=self.device,
            )

        return run

    def stage(self, config: FinetuneConfig, steps: int) -> DistillStage:
        """The settings of a fine-tuning. Raises ConfigError for those that cannot be."""
        own = dict(config.settings)
        loop = {**self.settings.get("loop", {}), **own.pop("loop", {}), "steps": steps}
        if steps:
            loop["warmup"] = min(loop.get("warmup", 200), steps // 10)
        else:
            loop.setdefault("warmup", _WARMUP)
        data = {
            "validation": {"share": 0.0},
            **self.settings,
            **own,
            "loop": loop,
            "teacher": str(self.teacher),
            "part": config.network,
        }
        return from_dict(DistillStage, data, "settings")


def make(
    dense: Model,
    recipe: Recipe,
    calibration: Sequence[Grey],
    tuning: Tuning | None,
    folder: Path,
    parent: str,
    size: tuple[int, int],
) -> Model:
    """A model by a recipe; without `tuning` its fine-tuning, and the threshold chosen after it, are
    left out.

    Args:
        folder: for what fine-tuning keeps. parent: hash of the dense model.
        size: (width, height) at which photographs are looked at.
    """
    if tuning is None:
        left_out = FinetuneConfig, ThresholdConfig
        kept = tuple(step for step in recipe.steps if not isinstance(step, left_out))
        recipe = replace(recipe, steps=kept)
    tuner = tuning and tuning.finetuner(recipe, folder)
    return compress(
        dense,
        recipe,
        calibration_images=calibration,
        image_size=size,
        finetune=tuner,
        parent=parent,
    )


def _steps_of(step: FinetuneConfig) -> int:
    """The steps that a recipe says, of which its share of the minutes follows."""
    return int(step.settings.get("loop", {}).get("steps", 1))
