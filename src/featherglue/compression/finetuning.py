"""Fine-tuning of compressed models: what was pruned stays 0, and what is trained is what is stored.

The teacher is the model that it was made from, or a stronger one; see `train.distill`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import layers
from featherglue.compression.pruning.fine_grained import (
    PruneConfig,
    layer_ratios,
    require_unquantized,
)
from featherglue.compression.pruning.gradual import GradualMasks, ScheduleConfig
from featherglue.compression.pruning.masks import Masks
from featherglue.compression.quantization.qat import finish_qat, prepare_qat
from featherglue.compression.step_types import Finetune, FinetuneConfig, StepResult
from featherglue.compression.steps import STEP_KINDS, step_record
from featherglue.config import ArchitectureConfig, from_dict
from featherglue.errors import ConfigError
from featherglue.models.model import Model
from featherglue.train.engine.checkpoint import last_step
from featherglue.train.engine.run_log import Report
from featherglue.train.stages.distill import DistillStage, train_distill


def finetune(
    model: Model,
    stage: DistillStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    original: Model | None = None,
    prune: PruneConfig | None = None,
    schedule: ScheduleConfig | None = None,
    minutes: float = float("inf"),
    device: str = "cpu",
    report: Report = lambda step, row: None,
) -> Model:
    """Train a compressed model, and save it, with its run, as the model `folder/model`.

    What was pruned stays 0, see `pruned_weights`. Linearly quantized weights are rounded in every
    forward pass; of codebooks the values are trained; activations are rounded as in use.

    Args:
        model: stays as it is. stage: its `student` does not count.
        images: folder of photographs. folder: of the run; one that holds a checkpoint goes on.
        original: what the model was quantized from, see `unrounded`: linearly quantized weights
            then start as they were before they were rounded.
        prune, schedule: prune it on the way, more and more, see `gradual`; in the model's recipe
            that is a step "prune" of its own.
        minutes: stop, resumable, after this time.

    Raises:
        TrainingError, ConfigError: as `train_distill`; a schedule that ends after the last step.
        UsageError: a quantized model is to be pruned.
    """
    growing = FinetuneConfig(network=stage.part, prune=prune, schedule=schedule)
    if growing.prune is not None and growing.schedule is not None:
        require_unquantized(model)
        layer_ratios(model.architecture, growing.prune)
        if not stage.loop.steps:
            raise ConfigError(
                "pruning by a schedule needs to know the steps: give loop.steps of at least "
                f"{growing.schedule.end}"
            )
        if growing.schedule.end > stage.loop.steps:
            raise ConfigError(
                f"the schedule of pruning ends at step {growing.schedule.end}, training at "
                f"{stage.loop.steps}"
            )
    masks = pruned_weights(model, original)
    quantized = bool(model.quantization)
    trained = train_distill(
        stage,
        images,
        folder,
        minutes=minutes,
        device=device,
        report=report,
        constraint=_constraint(masks, growing.gradual_masks(last_step(folder))),
        student=prepare_qat(model, original) if quantized else model,
        mark=student_mark(model, growing),
        finish=finish_qat if quantized else lambda trained: _with_step(trained, prune),
    )
    return Model.from_artifact(trained.to_artifact())  # free of the device and of averaging


def _constraint(masks: Masks, gradual: GradualMasks | None) -> Callable[[nn.Module], None]:
    """What holds the zeros that are there, and those that come."""
    holds = [part.apply_to for part in (gradual, masks if masks.kept else None) if part is not None]

    def hold(network: nn.Module) -> None:
        for one in holds:
            one(network)

    return hold


def _with_step(model: Model, prune: PruneConfig | None) -> Model:
    """The model with what it was pruned by on the way in its recipe, before the training."""
    if prune is None:
        return model
    step = step_record(prune)
    *before, training = model.provenance.recipe
    provenance = replace(model.provenance, recipe=(*before, step, training))
    return replace(model, provenance=provenance)


def pruned_weights(model: Model, original: Model | None = None) -> Masks:
    """Where a model was pruned: the zeros of the layers that steps "prune" of its recipe name.

    Other zeros are numbers like any: rounding makes them, and what was made narrower may hold
    some. A model whose recipe tells of no compression was pruned by other means: all zeros of its
    plain weights count.

    Args:
        original: what it was before it was rounded, whose zeros then count.
    """
    steps = [step for step in model.provenance.recipe if step.get("step") in STEP_KINDS]
    zeros = Masks.from_zeros(original or model).kept
    if not steps:
        coded = {} if original else model.quantization.tensors
        return Masks(kept={n: mask for n, mask in zeros.items() if f"{n}.weight" not in coded})
    named: set[str] = set()
    for step in steps:
        if step["step"] == "prune":
            settings = {k: v for k, v in step.items() if k not in ("step", "version")}
            named |= _names(model.architecture, from_dict(PruneConfig, settings, "prune"))
    return Masks(kept={name: mask for name, mask in zeros.items() if name in named})


def _names(architecture: ArchitectureConfig, config: PruneConfig) -> set[str]:
    """The layers that a step was about, whatever they are called since normalisation was folded."""
    normed = ArchitectureConfig(
        extractor=architecture.extractor and replace(architecture.extractor, batch_norm=True),
        matcher=architecture.matcher and replace(architecture.matcher, batch_norm=True),
    )
    found = set()
    for now, before in zip(layers(architecture), layers(normed), strict=True):
        names = (now.name, before.name)
        wanted, left = (
            any(fnmatchcase(name, glob) for name in names for glob in globs)
            for globs in (config.include or ("*",), config.exclude)
        )
        if wanted and not left:
            found.add(now.name)
    return found


def unrounded(model: Model, candidate: Artifact) -> Model | None:
    """The candidate, if the model is that with nothing done since but folding and rounding."""
    before, now = candidate.provenance.recipe, model.provenance.recipe
    since = [step.get("step") for step in now[len(before) :]]
    same = model.provenance.parent == candidate.hash and now[: len(before)] == before
    if not same or set(since) - {"fold", "linear"} or candidate.quantization:
        return None
    folded = fold_batch_norm(candidate)
    fits = fold_batch_norm(model.to_artifact()).architecture == folded.architecture
    return Model.from_artifact(folded) if fits else None


def student_mark(model: Model, config: FinetuneConfig) -> str:
    """Sixteen hexadecimal digits of a model's weights and codes, and of how it is pruned on the
    way, to tell students apart."""
    digest = hashlib.sha256()
    if config.prune is not None:
        digest.update(repr((config.prune, config.schedule)).encode())
    artifact = model.to_artifact()
    for name, array in sorted(artifact.arrays.items()):
        digest.update(name.encode() + array.tobytes())
    for name, code in sorted(artifact.quantization.tensors.items()):
        digest.update(f"{name} {type(code).__name__} {code.bits}".encode() + code.codes.tobytes())
    return digest.hexdigest()[:16]


def stage_of(config: FinetuneConfig, teacher: str | os.PathLike[str]) -> DistillStage:
    """What a step "finetune" asks for.

    Raises:
        ConfigError: its settings are none of a stage.
    """
    settings: dict[str, Any] = {
        **config.settings,
        "teacher": str(teacher),
        "part": config.network,
    }
    stage = from_dict(DistillStage, settings, "settings")
    if not stage.loop.steps:
        raise ConfigError("settings.loop.steps: a recipe says how many")
    return stage


def step_finetuner(
    teacher: str | os.PathLike[str],
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    device: str = "cpu",
    started: Callable[[DistillStage], Report] = lambda stage: lambda step, row: None,
) -> Finetune:
    """What does the steps "finetune" of a recipe, for `compress(…, finetune=…)`.

    A step's settings are those of `DistillStage`; `teacher` and `part` are known.

    Args:
        teacher: folder of a model. folder: of the runs, `1`, `2`, …; those that are there go on.
        started: called with each step's stage, before it; gives its `report`.

    Raises (when it is called):
        ConfigError: a step's settings are none of a stage, or TrainingError as `finetune`.
    """
    count = 0

    def run(model: Model, config: FinetuneConfig, original: Model | None) -> StepResult:
        nonlocal count
        count += 1
        stage = stage_of(config, teacher)
        trained = finetune(
            model,
            stage,
            images,
            Path(folder) / str(count),
            original=original,
            prune=config.prune,
            schedule=config.schedule,
            device=device,
            report=started(stage),
        )
        record = trained.provenance.recipe[len(model.provenance.recipe) :]
        return StepResult(trained, record)

    return run
