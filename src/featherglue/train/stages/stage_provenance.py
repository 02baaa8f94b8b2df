"""The provenance of a trained model: recipe, data, license and hardware."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from featherglue.artifact.format import load_artifact
from featherglue.config import Provenance, to_dict
from featherglue.machine import describe_machine
from featherglue.train.engine.checkpoint import last_step
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.log_files import logged_seconds

LICENSE = "Apache-2.0"
# Recipe steps that change the weights of a network.
_TRAINING_STEPS: dict[str, tuple[str, ...]] = {
    "extractor": ("shapes", "superpoint", "channels", "turn-descriptors", "distill-features"),
    "matcher": ("superglue",),
}


def model_fingerprint(name: str, folder: str) -> dict[str, str]:
    """The fingerprint of the model in `folder` as the input `name` of a run; "" has none."""
    return {name: load_artifact(folder).hash} if folder else {}


def training_steps(
    folder: str, network: Literal["extractor", "matcher"]
) -> tuple[dict[str, Any], ...]:
    """The recipe steps that trained a network of the model in `folder`; "" has none."""
    steps = load_artifact(folder).provenance.recipe if folder else ()
    return tuple(step for step in steps if _trains(step, network))


def _trains(step: Mapping[str, Any], network: Literal["extractor", "matcher"]) -> bool:
    kind = step.get("step")
    if kind == "superglue" and network == "extractor":
        return step.get("descriptor_weight") is not None
    if kind == "distill":
        return step.get("part") in (network, "both")
    return kind in _TRAINING_STEPS[network]


def pair_steps(extractor: str, matcher: str) -> tuple[dict[str, Any], ...]:
    """The recipe steps that trained the extractor of one model and the matcher of another one.

    Args:
        extractor, matcher: folders of the models; "" has no steps. Steps of one folder keep their
            order. A step that trained both networks is named once.
    """
    if extractor == matcher:
        steps = load_artifact(extractor).provenance.recipe if extractor else ()
        return tuple(s for s in steps if _trains(s, "extractor") or _trains(s, "matcher"))
    first = training_steps(extractor, "extractor")
    return (*first, *(s for s in training_steps(matcher, "matcher") if s not in first))


def hardware(device: str, group: ProcessGroup) -> dict[str, Any]:
    """The hardware of a run, and the number of processes if there are several."""
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        machine = describe_machine()
        name = f"{machine['cores']} cores of {machine['processor']}"
    return {"hardware": name} | ({"processes": group.size} if group.size > 1 else {})


def stage_provenance(
    name: str,
    stage: Any,
    folder: str | os.PathLike[str],
    *,
    earlier_steps: tuple[dict[str, Any], ...] = (),
    facts: Mapping[str, Any] | None = None,
    sources: Sequence[str] = (),
) -> Provenance:
    """The provenance of the model of a run.

    Weights that start from, or are combined with, weights under another license keep that license.

    Args:
        name: name of the stage.
        stage: its configuration, with `loop` and `data`.
        folder: folder of the run.
        earlier_steps: recipe steps before this one.
        facts: entries of the step that precede its settings and replace those of the same name.
        sources: folders of the models that the weights come from; "" is ignored.
    """
    stored_elsewhere = ("architecture", "processing", "extractor", "data", *(facts or {}))
    settings = {k: v for k, v in to_dict(stage).items() if k not in stored_elsewhere}
    planned, taken = settings["loop"]["steps"], last_step(folder)
    if not planned:  # derived from the time limit
        settings["loop"] = {**settings["loop"], "steps": taken}
    minutes = round(logged_seconds(folder) / 60, 1)
    step = {"step": name, **(facts or {}), "minutes": minutes, **settings}
    if 0 < taken < planned:
        step["stopped_after"] = taken
    licenses = [load_artifact(source).provenance.license for source in sources if source]
    others = sorted({license for license in licenses if license not in ("", LICENSE)})
    license = " and ".join(others) or LICENSE
    return Provenance(recipe=(*earlier_steps, step), data=stage.data, license=license)
