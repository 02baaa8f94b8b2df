"""Fine-tuning of compressed models by distillation; see `train.stages.distill_stage`."""

from __future__ import annotations

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
from featherglue.config import ArchitectureConfig, from_dict, to_dict
from featherglue.errors import ConfigError
from featherglue.fingerprint import fingerprint
from featherglue.models.model import Model
from featherglue.train.engine.checkpoint import last_step
from featherglue.train.engine.run_log import Report
from featherglue.train.engine.run_settings import current_names, stage_from_dict
from featherglue.train.stages.distill_stage import DistillStage, train_distill


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
    """Train a compressed model and save it as the model `folder/model`.

    Pruned weights stay 0, see `pruned_weights`. Linearly quantized weights and activations are
    rounded in every forward pass (QAT). Of codebooks the entries are trained, the indices fixed.

    Args:
        model: the compressed model; it is not changed.
        stage: settings of the training. `stage.student` is not used.
        images: folder of photographs.
        folder: folder of the run; a run with a checkpoint resumes.
        original: the model before quantization, see `before_rounding`. Linearly quantized weights
            start from its weights.
        prune, schedule: prune gradually during training, see `compression.pruning.gradual`. The
            recipe of the model gets a step "prune".
        minutes: time limit; the run can be resumed.
        device: "cpu" or "cuda".
        report: called about every second with the step and the mean metrics.

    Raises:
        TrainingError: as `train_distill`.
        ConfigError: as `train_distill`; or the schedule ends after the last step.
        UsageError: a quantized model is to be pruned.
    """
    config = FinetuneConfig(network=stage.part, prune=prune, schedule=schedule)
    _check_schedule(model, stage, config)
    masks = pruned_weights(model, original)
    quantized = bool(model.quantization)
    trained = train_distill(
        stage,
        images,
        folder,
        minutes=minutes,
        device=device,
        report=report,
        constraint=_constraint(masks, config.gradual_masks(last_step(folder))),
        student=prepare_qat(model, original) if quantized else model,
        student_fingerprint=student_fingerprint(model, config),
        finish=finish_qat if quantized else lambda trained: _with_step(trained, prune),
    )
    # A model on the CPU whose tensors do not belong to the training.
    return Model.from_artifact(trained.to_artifact())


def _check_schedule(model: Model, stage: DistillStage, config: FinetuneConfig) -> None:
    if config.prune is None or config.schedule is None:
        return
    require_unquantized(model)
    layer_ratios(model.architecture, config.prune)
    if not stage.loop.steps:
        raise ConfigError(
            f"gradual pruning requires loop.steps: set it to at least {config.schedule.end}"
        )
    if config.schedule.end > stage.loop.steps:
        raise ConfigError(
            f"schedule.end = {config.schedule.end} must not exceed loop.steps = {stage.loop.steps}"
        )


def _constraint(masks: Masks, gradual: GradualMasks | None) -> Callable[[nn.Module], None]:
    """A function that sets pruned weights to 0: those of `masks` and of gradual pruning."""
    parts = [part for part in (gradual, masks if masks.kept else None) if part is not None]

    def apply(network: nn.Module) -> None:
        for part in parts:
            part.apply_to(network)

    return apply


def _with_step(model: Model, prune: PruneConfig | None) -> Model:
    """The model with the gradual pruning in its recipe, before the training."""
    if prune is None:
        return model
    step = step_record(prune)
    *before, training = model.provenance.recipe
    provenance = replace(model.provenance, recipe=(*before, step, training))
    return replace(model, provenance=provenance)


def pruned_weights(model: Model, original: Model | None = None) -> Masks:
    """The pruned weights of a model: the zeros of the layers that its recipe prunes.

    Other zeros, for example from rounding, are trained. If the recipe has no compression step, all
    zeros of weights that are not quantized count as pruned.

    Args:
        original: the model before quantization; its zeros count instead.
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
            named |= _pruned_layers(model.architecture, from_dict(PruneConfig, settings, "prune"))
    return Masks(kept={name: mask for name, mask in zeros.items() if name in named})


def _pruned_layers(architecture: ArchitectureConfig, config: PruneConfig) -> set[str]:
    """Names of the layers that a step prunes. Folding batch normalization may have renamed them."""
    unfolded = ArchitectureConfig(
        extractor=architecture.extractor and replace(architecture.extractor, batch_norm=True),
        matcher=architecture.matcher and replace(architecture.matcher, batch_norm=True),
    )
    found = set()
    for now, before in zip(layers(architecture), layers(unfolded), strict=True):
        names = (now.name, before.name)
        included, excluded = (
            any(fnmatchcase(name, glob) for name in names for glob in globs)
            for globs in (config.include or ("*",), config.exclude)
        )
        if included and not excluded:
            found.add(now.name)
    return found


def before_rounding(model: Model, candidate: Artifact) -> Model | None:
    """The candidate with folded batch normalization, if `model` is its quantized version.

    Returns:
        None if other steps than folding and linear quantization were performed since.
    """
    before, now = candidate.provenance.recipe, model.provenance.recipe
    since = [step.get("step") for step in now[len(before) :]]
    same = model.provenance.parent == candidate.hash and now[: len(before)] == before
    if not same or set(since) - {"fold", "linear"} or candidate.quantization:
        return None
    folded = fold_batch_norm(candidate)
    fits = fold_batch_norm(model.to_artifact()).architecture == folded.architecture
    return Model.from_artifact(folded) if fits else None


def student_fingerprint(model: Model, config: FinetuneConfig) -> str:
    """Fingerprint of a student: its weights and codes, and how it is pruned during training."""
    artifact = model.to_artifact()
    codes = {
        name: [type(code).__name__, code.bits, code.codes]
        for name, code in artifact.quantization.tensors.items()
    }
    pruning = [part and to_dict(part) for part in (config.prune, config.schedule)]
    return fingerprint(dict(artifact.arrays), codes, pruning)


def finetune_stage(config: FinetuneConfig, teacher: str | os.PathLike[str]) -> DistillStage:
    """The training stage of a recipe step "finetune".

    Args:
        config: the step; its settings are those of `DistillStage`.
        teacher: folder of the teacher.

    Raises:
        ConfigError: an invalid setting, or no number of steps.
    """
    settings: dict[str, Any] = {
        **current_names(config.settings),  # recipes of models keep the names of their time
        "teacher": str(teacher),
        "part": config.network,
    }
    stage = stage_from_dict(DistillStage, settings, "settings")
    if not stage.loop.steps:
        raise ConfigError("settings.loop.steps: a recipe requires a number of steps")
    return stage


def step_finetuner(
    teacher: str | os.PathLike[str],
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    device: str = "cpu",
    started: Callable[[DistillStage], Report] = lambda stage: lambda step, row: None,
) -> Finetune:
    """The function that performs the steps "finetune" of a recipe, for `compress`.

    The settings of a step are those of `DistillStage` except `teacher` and `part`.

    Args:
        teacher: folder of the teacher.
        images: folder of photographs.
        folder: folder of the runs `1`, `2`, …; runs with a checkpoint resume.
        device: "cpu" or "cuda".
        started: called with the stage of each step before it starts; returns its `report`.

    The function raises ConfigError for invalid settings, and the errors of `finetune`.
    """
    count = 0

    def run(model: Model, config: FinetuneConfig, original: Model | None) -> StepResult:
        nonlocal count
        count += 1
        stage = finetune_stage(config, teacher)
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
