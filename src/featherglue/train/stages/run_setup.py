"""What every stage does before and after training: settings of a run, weights to start from,
provenance."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import load_artifact
from featherglue.config import Provenance, from_dict, to_dict
from featherglue.errors import ConfigError, TrainingError
from featherglue.io.files import write_json
from featherglue.machine import describe_machine
from featherglue.models.low_rank import narrow_heads
from featherglue.models.model import Model
from featherglue.models.net2net import grow_superglue, grow_superpoint
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.checkpoint import BEST, LAST, last_step, load_best, spent_seconds
from featherglue.train.engine.distributed import World

LICENSE = "Apache-2.0"
Network = TypeVar("Network", bound=nn.Module)
Settings = TypeVar("Settings")
# Of a loop, what changes nothing of what is learned.
_FREE = ("steps", "workers", "save_seconds")


def model_fact(name: str, folder: str) -> dict[str, str]:
    """A model that is looked at all through a run, by its weights; for `keep_settings`."""
    return {name: load_artifact(folder).hash} if folder else {}


def with_noted_warmup(stage: Settings, folder: str | os.PathLike[str]) -> Settings:
    """A stage with the warm-up that a run was begun with, for that follows from its first steps."""
    try:
        noted = json.loads((Path(folder) / "stage.json").read_text(encoding="utf-8"))
        loop = replace(stage.loop, warmup=int(noted["loop"]["warmup"]))  # type: ignore[attr-defined]
    except (OSError, ValueError, KeyError, TypeError):
        return stage  # `keep_settings` says what is wrong
    return replace(stage, loop=loop)  # type: ignore[type-var]


def keep_settings(
    stage: Any, folder: str | os.PathLike[str], facts: Mapping[str, Any] | None = None
) -> None:
    """Note a run's settings, or refuse to go on with others; another number of steps is allowed,
    but not for one that followed from the time, and other workers and times of saving.

    Args:
        stage: its configuration, with a `loop`. facts: plain values that take the place of
            settings, such as a model's hash that of its folder.

    Raises:
        TrainingError: the folder's run had other settings, or nobody can say which.
        OutputError: the folder cannot be made.
    """
    if stage.seed < 0:
        raise ConfigError(f"seed cannot be negative, as {stage.seed} is")
    path = Path(folder) / "stage.json"
    settings = json.loads(json.dumps(to_dict(stage) | dict(facts or {})))
    if path.exists() and (Path(folder) / LAST).exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            timed = not before["loop"]["steps"], not settings["loop"]["steps"]
            for name in _FREE:
                if name != "steps" or timed[0] == timed[1]:
                    before["loop"][name] = settings["loop"][name]
            before = _filled(before, stage, facts or {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path}: damaged ({error}); remove it to go on with these settings"
            ) from None
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            where = _first_difference(changed[0], before.get(changed[0]), settings[changed[0]])
            raise TrainingError(
                f"{folder}: its run had other settings ({where}); choose another folder"
            )
    write_json(path, settings)


def _first_difference(name: str, before: Any, now: Any) -> str:
    """The name of a setting, with those inside it down to the one that differs."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return name
    inner = next(key for key in {**now, **before} if before.get(key) != now.get(key))
    return _first_difference(f"{name}.{inner}", before.get(inner), now.get(inner))


def _filled(before: dict[str, Any], stage: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings, with what did not exist yet when it was started as it is by default."""
    known = to_dict(stage)
    settings = {name: before[name] for name in known if name in before and name not in facts}
    settings |= {name: known[name] for name in known if name in facts}
    with suppress(ConfigError):
        settings = json.loads(json.dumps(to_dict(from_dict(type(stage), settings, ""))))
    return {**before, **settings, **{name: before.get(name) for name in facts}}


def start_from(network: nn.Module, model: Model, folder: str) -> None:
    """Copy the weights of a model's network of the same kind.

    A matcher's heads may be wider there; otherwise a smaller network grows into this one, with its
    batch normalisation folded where this one has none.

    Args:
        network: SuperPoint or SuperGlue. folder: of the model, for messages.

    Raises:
        TrainingError: it has none, or one that does not fit.
    """
    trained = _same_kind(network, model)
    if trained is None:
        raise TrainingError(f"{folder}: a model without this network cannot be started from")
    if trained.config.batch_norm and not network.config.batch_norm:  # type: ignore[union-attr]
        trained = _same_kind(network, Model.from_artifact(fold_batch_norm(model.to_artifact())))
    try:
        if isinstance(network, SuperGlue) and isinstance(trained, SuperGlue):
            widths = {layer.head_dim for layer in network.config.layers}
            narrowed = narrow_heads(trained, widths.pop()) if len(widths) == 1 else trained
            if narrowed.config != network.config:
                narrowed = grow_superglue(trained, network.config)
            network.load_state_dict(narrowed.state_dict())
        elif isinstance(network, SuperPoint) and isinstance(trained, SuperPoint):
            if trained.config != network.config:
                trained = grow_superpoint(trained, network.config)
            network.load_state_dict(trained.state_dict())
    except ConfigError as error:
        raise TrainingError(
            f"{folder}: a model of another architecture, from which this one cannot grow ({error})"
        ) from None


def _same_kind(network: nn.Module, model: Model) -> SuperPoint | SuperGlue | None:
    return model.extractor if isinstance(network, SuperPoint) else model.matcher


def folded_extractor(model: Model) -> SuperPoint:
    """A frozen copy of a model's extractor with its batch normalisation folded.

    Raises:
        TrainingError: the model has none.
    """
    folded = Model.from_artifact(fold_batch_norm(model.to_artifact())).extractor
    if folded is None:
        raise TrainingError("a model without an extractor finds no keypoints")
    return folded.requires_grad_(False)


_TRAINS: dict[str, tuple[str, ...]] = {
    "extractor": ("shapes", "superpoint", "channels", "turn-descriptors"),
    "matcher": ("superglue",),
}


def history(folder: str, network: Literal["extractor", "matcher"]) -> tuple[dict[str, Any], ...]:
    """The steps by which a network of the model in a folder was trained; "" has none."""
    steps = load_artifact(folder).provenance.recipe if folder else ()
    taught = (network, "both")
    return tuple(
        step
        for step in steps
        if step.get("step") in _TRAINS[network]
        or (step.get("step") == "distill" and step.get("part") in taught)
    )


def trained_on(device: str, world: World) -> dict[str, Any]:
    """The hardware of a run, and its processes where they are several, for `provenance`."""
    if torch.device(device).type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        machine = describe_machine()
        hardware = f"{machine['cores']} cores of {machine['processor']}"
    return {"hardware": hardware} | ({"processes": world.size} if world.size > 1 else {})


def provenance(
    before: tuple[dict[str, Any], ...],
    name: str,
    stage: Any,
    folder: str | os.PathLike[str],
    facts: Mapping[str, Any] | None = None,
    sources: Sequence[str] = (),
) -> Provenance:
    """The recipe so far, and this stage.

    Weights that start from, or stand beside, those of another licence are not ours to license.

    Args:
        sources: folders of the models that the weights come from; "" is none.
        stage: its configuration, with `data`. facts: to be said before the settings, and in
            place of those of the same name.
    """
    said_elsewhere = ("architecture", "processing", "extractor", "data", *(facts or {}))
    settings = {k: v for k, v in to_dict(stage).items() if k not in said_elsewhere}
    planned, taken = settings["loop"]["steps"], last_step(folder)
    if not planned:  # they followed from the time
        settings["loop"] = {**settings["loop"], "steps": taken}
    minutes = round(spent_seconds(folder) / 60, 1)
    step = {"step": name, **(facts or {}), "minutes": minutes, **settings}
    if 0 < taken < planned:
        step["stopped_after"] = taken
    theirs = [load_artifact(folder).provenance.license for folder in sources if folder]
    others = sorted({license for license in theirs if license not in ("", LICENSE)})
    license = " and ".join(others) or LICENSE
    return Provenance(recipe=(*before, step), data=stage.data, license=license)


def save_models(
    build: Callable[[Network], Model],
    average: Network,
    folder: str | os.PathLike[str],
    world: World,
) -> Model:
    """Save a run's model as `folder/model`, and with the weights that did best as `folder/best`.

    Args:
        build: the model around what was trained. average: what was trained, averaged; the best
            weights are put into a copy of it.

    Returns:
        the first of the two.

    Raises:
        OutputError: they cannot be written; the run's state is in the folder.
    """
    trained = build(average)
    if not world.leads:
        return trained
    trained.save(Path(folder) / "model")
    best = copy.deepcopy(average)
    if load_best(Path(folder) / BEST, best) is not None:
        build(best).save(Path(folder) / "best")
    return trained
