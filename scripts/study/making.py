"""Making a model by a recipe, with fine-tuning by distillation from the dense one."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featherglue.compression.masks import Masks
from featherglue.compression.prune import PruneConfig, layer_ratios
from featherglue.compression.recipe import Recipe, compress
from featherglue.compression.steps import FinetuneConfig
from featherglue.compression.trainable import finish_training, make_trainable
from featherglue.config import from_dict
from featherglue.errors import ConfigError
from featherglue.files import write_json
from featherglue.folding import fold_batch_norm
from featherglue.models.pair import Model
from featherglue.train.distill import DistillStage, train_distill
from study.experiments import segments

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Grey = NDArray[np.uint8]
Finish = Callable[[Model], Model]
_PROBES = (1, 4)  # steps whose times tell how long one takes


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How models are fine-tuned.

    Attributes:
        teacher: folder of the dense model. images: folder of the photographs.
        settings: plain values of a `DistillStage`; those of a recipe's step count more.
        minutes: for one experiment in all. steps: of each fine-tuning; 0 takes what fits them.
        device: "cpu" or "cuda".
    """

    teacher: Path
    images: Path
    settings: Mapping[str, Any]
    minutes: float
    steps: int = 0
    device: str = "cpu"

    def __call__(
        self,
        model: Model,
        parent: Model,
        config: FinetuneConfig,
        folder: Path,
        *,
        pruned: Collection[str] = (),
        share: float = 1.0,
    ) -> Model:
        """A fine-tuned copy of a model, masks and codes held; goes on with what `folder` holds.

        Args:
            parent: what it was before the last steps. pruned: the layers whose zeros stay; other
                zeros are as good as any number. share: of the minutes.
        """
        coded = bool(model.quantization.tensors)
        zeros = Masks.of(parent if coded else model).kept
        masks = Masks(kept={name: mask for name, mask in zeros.items() if name in pruned})
        student = make_trainable(model, _unrounded(model, parent)) if coded else model
        finish: Finish = finish_training if coded else lambda made: made
        steps = self.steps or self._steps(student, config, share, folder, finish)
        stage = self._stage(config, steps)
        print(f"    {stage.loop.steps} steps of {config.network}", flush=True)
        trained = train_distill(
            stage,
            self.images,
            folder,
            minutes=2 * self.minutes * share if self.minutes else float("inf"),
            device=self.device,
            student=student,
            constraint=masks.hold if masks.kept else None,
            finish=finish,
        )
        return Model.from_artifact(trained.to_artifact())

    def _stage(self, config: FinetuneConfig, steps: int) -> DistillStage:
        own = dict(config.settings)
        loop = {**self.settings.get("loop", {}), **own.pop("loop", {}), "steps": steps}
        loop["warmup"] = min(loop.get("warmup", 200), steps // 10)
        data = {
            "validation": {"share": 0.0},
            **self.settings,
            **own,
            "loop": loop,
            "teacher": str(self.teacher),
            "part": config.network,
        }
        return from_dict(DistillStage, data, "settings")

    def _steps(
        self, student: Model, config: FinetuneConfig, share: float, folder: Path, finish: Finish
    ) -> int:
        """How many steps fit; found once, so that a run that goes on has the same."""
        path = folder / "steps.json"
        if path.exists():
            return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
        times = []
        for count in (1, *_PROBES):  # the first one also starts everything up
            with tempfile.TemporaryDirectory() as place:
                start = time.monotonic()
                stage = self._stage(config, count)
                train_distill(
                    stage, self.images, place, device=self.device, student=student, finish=finish
                )
                times.append(time.monotonic() - start)
        each = (times[2] - times[1]) / (_PROBES[1] - _PROBES[0])
        if each <= 0:
            raise ConfigError(f"{folder}: steps cannot be timed on this busy machine; give --steps")
        steps = max(1, int(60 * self.minutes * share / each))
        write_json(path, {"steps": steps, "seconds_a_step": round(each, 3)})
        return steps


def make(
    dense: Model,
    recipe: Recipe,
    calibration: Sequence[Grey],
    tuning: Tuning | None,
    folder: Path,
    parent: str,
    size: tuple[int, int],
) -> Model:
    """A model by a recipe; without `tuning` its fine-tuning is left out.

    Args:
        folder: for what fine-tuning keeps. parent: hash of the dense model.
        size: (width, height) at which photographs are looked at.
    """
    model = dense
    steps = [_steps_of(step) for _, step in segments(recipe) if step is not None]
    pruned: set[str] = set()
    for index, (part, step) in enumerate(segments(recipe)):
        before = model
        if part is not None:
            model = compress(model, part, calibration=calibration, size=size, parent=parent)
            for config in part.steps:
                if isinstance(config, PruneConfig):
                    pruned |= set(layer_ratios(model.architecture, config))
        if step is not None and tuning is not None:
            share = _steps_of(step) / sum(steps)
            torch.manual_seed(0)
            place = folder / f"tuning-{index + 1}"
            model = tuning(model, before, step, place, pruned=pruned, share=share)
    return model


def _steps_of(step: FinetuneConfig) -> int:
    """The steps that a recipe says, of which its share of the minutes follows."""
    return int(step.settings.get("loop", {}).get("steps", 1))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of fine-tuning. Raises ConfigError where they cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None


def folded(model: Model) -> Model:
    """The model with batch normalisation folded."""
    made = Model.from_artifact(fold_batch_norm(model.to_artifact()))
    return replace(made, provenance=model.provenance)


def _unrounded(model: Model, parent: Model) -> Model | None:
    """What linear weights were before they were rounded, where only that was done."""
    ours = model.architecture
    return parent if folded(parent).architecture == ours and not parent.quantization else None
