"""Which networks a distillation trains, from which weights they start, and by whom they are
taught."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch.nn.utils import parametrize

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact, load_artifact
from featherglue.config import ArchitectureConfig, SuperGlueConfig, SuperPointConfig
from featherglue.errors import TrainingError
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint
from featherglue.train.losses.teacher_student import Student, Teacher
from featherglue.train.stages.run_setup import folded_extractor, start_from

Part = Literal["extractor", "matcher", "both"]


@dataclass(frozen=True, kw_only=True)
class StudentChoice:
    """What is to be taught.

    Attributes:
        start: folder of a model to start from; "" starts from scratch.
        extractor, matcher: architectures; without one the network is as in `start`. Weights that
            `start` has are taken over as by `runs.start_from`; what it lacks starts from scratch,
            a matcher from comparing descriptors as they are.
    """

    start: str = ""
    extractor: SuperPointConfig | None = None
    matcher: SuperGlueConfig | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Pupil:
    """A model of which a part is trained.

    Attributes:
        model: that, with the networks that are trained and the one that stays, if there is one.
        keypoints: what finds the keypoints for the matcher; where an extractor is trained along
            with it, that extractor. None where no matcher is trained.
        parent: hash of the model that it starts from, or "".
    """

    model: Model
    part: Part
    keypoints: SuperPoint | None
    parent: str = ""

    @property
    def extractor(self) -> SuperPoint | None:
        """The extractor, if it is trained."""
        return None if self.part == "matcher" else self.model.extractor

    @property
    def matcher(self) -> SuperGlue | None:
        """The matcher, if it is trained."""
        return None if self.part == "extractor" else self.model.matcher

    def with_trained(self, student: Student) -> Model:
        """The model with what was trained in its place."""
        model = self.model
        if student.extractor is not None:
            model = replace(model, extractor=student.extractor)
        return model if student.matcher is None else replace(model, matcher=student.matcher)


def build_pupil(choice: StudentChoice, part: Part, keypoints: str = "") -> Pupil:
    """The student of a configuration, on the CPU.

    Args:
        keypoints: folder of the model whose extractor a matcher alone is trained on; "" is that of
            `choice.start`.

    Raises:
        TrainingError: weights that do not fit, or no architecture and no model that has one.
        ConfigError: an extractor and a matcher that do not fit each other.
    """
    start = load_artifact(choice.start) if choice.start else None
    model = None if start is None else Model.from_artifact(start)
    extractor, matcher = (None, None) if model is None else (model.extractor, model.matcher)
    frozen = None
    if part == "matcher":
        base = Model.load(keypoints) if keypoints else model
        if base is None or base.extractor is None:
            raise TrainingError(
                f"{keypoints or choice.start}: a model without an extractor finds no keypoints"
            )
        extractor, frozen = base.extractor, folded_extractor(base)
    else:
        extractor = _extractor(choice, model)
    if part != "extractor":
        matcher = _matcher(choice, model)
    elif matcher is not None and matcher.config.descriptor_dim != extractor.config.descriptor_dim:
        matcher = None
    built = Model(extractor=extractor, matcher=matcher)
    _ = built.architecture  # refuses two that do not fit
    if model is not None:
        built = replace(built, processing=model.processing, provenance=model.provenance)
    return Pupil(
        model=built,
        part=part,
        keypoints=extractor if part == "both" else frozen,
        parent="" if start is None else start.hash,
    )


def given_pupil(model: Model, part: Part) -> Pupil:
    """A copy of a student that the caller made, whose layers may hold parametrizations.

    Raises:
        TrainingError: it lacks a network.
    """
    copied = replace(
        model, extractor=copy.deepcopy(model.extractor), matcher=copy.deepcopy(model.matcher)
    )
    needed = {"extractor"} if part == "extractor" else {"extractor", "matcher"}
    missing = sorted(needed - set(copied.networks()))
    if missing:
        raise TrainingError(f"the student has no {missing[0]}, which part = {part!r} needs")
    keypoints = None if part == "extractor" else copied.extractor
    if part == "matcher" and keypoints is not None:
        keypoints.eval().requires_grad_(False)
        if not any(parametrize.is_parametrized(layer) for layer in keypoints.modules()):
            floats = replace(copied.quantization, tensors={})
            keypoints = folded_extractor(replace(copied, matcher=None, quantization=floats))
    return Pupil(model=copied, part=part, keypoints=keypoints, parent=model.provenance.parent)


def _extractor(choice: StudentChoice, start: Model | None) -> SuperPoint:
    there = None if start is None else start.extractor
    config = choice.extractor or (there and there.config)
    network = Model.build(ArchitectureConfig(extractor=config)).extractor if config else None
    if network is None:
        raise TrainingError(f"{choice.start}: no extractor; add [student.extractor] with its sizes")
    if start is not None and there is not None:
        start_from(network, start, choice.start)
    return network


def _matcher(choice: StudentChoice, start: Model | None) -> SuperGlue:
    there = None if start is None else start.matcher
    config = choice.matcher or (there and there.config)
    network = Model.build(ArchitectureConfig(matcher=config)).matcher if config else None
    if network is None:
        raise TrainingError(f"{choice.start}: no matcher; add [student.matcher] with its sizes")
    if start is None or there is None:
        network.init_from_descriptors()
    else:
        start_from(network, start, choice.start)
    return network


def build_teacher(artifact: Artifact, pupil: Pupil) -> Teacher:
    """The teacher's networks that the pupil needs, frozen, batch normalisation folded.

    Raises:
        TrainingError: it lacks one, or cannot read the student's descriptors.
    """
    model = Model.from_artifact(fold_batch_norm(artifact))
    extractor, matcher = model.extractor, model.matcher
    if pupil.extractor is not None and extractor is None:
        raise TrainingError(f"{artifact.folder}: a teacher without an extractor cannot teach one")
    if pupil.matcher is not None and matcher is None:
        raise TrainingError(f"{artifact.folder}: a teacher without a matcher cannot teach one")
    own = pupil.keypoints
    if pupil.part == "matcher" and matcher is not None and own is not None:
        if extractor is not None and _alike(extractor, own):
            extractor = None  # it would find again what the student's has found
        reads, gets = matcher.config.descriptor_dim, own.config.descriptor_dim
        if extractor is None and reads != gets:
            raise TrainingError(
                f"{artifact.folder}: the teacher has no extractor, and its matcher reads {reads}-d "
                f"descriptors, not the {gets}-d ones of the student; add its extractor"
            )
    for network in (extractor, matcher):
        if network is not None:
            network.eval().requires_grad_(False)
    return Teacher(extractor, matcher)


def _alike(first: SuperPoint, second: SuperPoint) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[k].cpu().numpy(), theirs[k].cpu().numpy()) for k in ours
    )
