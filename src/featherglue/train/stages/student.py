"""The student of a distillation, its start weights, and its teacher."""

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
from featherglue.train.losses.student_teacher import Student, Teacher
from featherglue.train.stages.start_weights import folded_extractor, start_from

Part = Literal["extractor", "matcher", "both"]


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The student of a distillation.

    Attributes:
        start: folder of a model to start from; "" starts from scratch.
        extractor, matcher: architectures; None takes that of `start`. The weights of `start` are
            copied by `start_from`. A matcher without start weights compares descriptors.
    """

    start: str = ""
    extractor: SuperPointConfig | None = None
    matcher: SuperGlueConfig | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class StudentModel:
    """A model of which a part is trained.

    Attributes:
        model: the model, with trained and frozen networks.
        part: the part that is trained.
        keypoint_extractor: finds the keypoints of the matcher. It is the trained extractor if both
            networks are trained; None if no matcher is trained.
        parent: fingerprint of the model that it starts from, or "".
    """

    model: Model
    part: Part
    keypoint_extractor: SuperPoint | None
    parent: str = ""

    @property
    def extractor(self) -> SuperPoint | None:
        """The extractor if it is trained."""
        return None if self.part == "matcher" else self.model.extractor

    @property
    def matcher(self) -> SuperGlue | None:
        """The matcher if it is trained."""
        return None if self.part == "extractor" else self.model.matcher

    def with_trained(self, student: Student) -> Model:
        """The model with the trained networks."""
        model = self.model
        if student.extractor is not None:
            model = replace(model, extractor=student.extractor)
        return model if student.matcher is None else replace(model, matcher=student.matcher)


def build_student(config: StudentConfig, part: Part, extractor_folder: str = "") -> StudentModel:
    """The student of a configuration, on the CPU.

    Args:
        extractor_folder: folder of the model whose extractor finds the keypoints if only the
            matcher is trained; "" takes that of `config.start`.

    Raises:
        TrainingError: the start weights do not fit, or neither an architecture nor a model to
            start from is given.
        ConfigError: the extractor and the matcher do not fit each other.
    """
    start = load_artifact(config.start) if config.start else None
    model = None if start is None else Model.from_artifact(start)
    extractor, matcher = (None, None) if model is None else (model.extractor, model.matcher)
    frozen = None
    if part == "matcher":
        base = Model.load(extractor_folder) if extractor_folder else model
        if base is None or base.extractor is None:
            raise TrainingError(
                f"{extractor_folder or config.start}: "
                "a model without an extractor finds no keypoints"
            )
        extractor, frozen = base.extractor, folded_extractor(base)
    else:
        extractor = _extractor(config, model)
    if part != "extractor":
        matcher = _matcher(config, model)
    elif matcher is not None and matcher.config.descriptor_dim != extractor.config.descriptor_dim:
        matcher = None
    built = Model(extractor=extractor, matcher=matcher)
    _ = built.architecture  # raises if the networks do not fit each other
    if model is not None:
        built = replace(built, processing=model.processing, provenance=model.provenance)
    return StudentModel(
        model=built,
        part=part,
        keypoint_extractor=extractor if part == "both" else frozen,
        parent="" if start is None else start.hash,
    )


def copy_student(model: Model, part: Part) -> StudentModel:
    """A student that is a copy of a model. Its layers may have parametrizations.

    Raises:
        TrainingError: the model lacks a network.
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
    return StudentModel(
        model=copied,
        part=part,
        keypoint_extractor=keypoints,
        parent=model.provenance.parent,
    )


def _extractor(config: StudentConfig, start: Model | None) -> SuperPoint:
    trained = None if start is None else start.extractor
    sizes = config.extractor or (trained and trained.config)
    network = Model.build(ArchitectureConfig(extractor=sizes)).extractor if sizes else None
    if network is None:
        raise TrainingError(f"{config.start}: no extractor; add [student.extractor] with its sizes")
    if start is not None and trained is not None:
        start_from(network, start, config.start)
    return network


def _matcher(config: StudentConfig, start: Model | None) -> SuperGlue:
    trained = None if start is None else start.matcher
    sizes = config.matcher or (trained and trained.config)
    network = Model.build(ArchitectureConfig(matcher=sizes)).matcher if sizes else None
    if network is None:
        raise TrainingError(f"{config.start}: no matcher; add [student.matcher] with its sizes")
    if start is None or trained is None:
        network.init_from_descriptors()
    else:
        start_from(network, start, config.start)
    return network


def build_teacher(artifact: Artifact, student: StudentModel) -> Teacher:
    """The teacher's networks that the student needs, frozen, with folded batch normalization.

    Raises:
        TrainingError: the teacher lacks a network, or its matcher cannot read the student's
            descriptors.
    """
    model = Model.from_artifact(fold_batch_norm(artifact))
    extractor, matcher = model.extractor, model.matcher
    if student.extractor is not None and extractor is None:
        raise TrainingError(f"{artifact.folder}: a teacher without an extractor cannot train one")
    if student.matcher is not None and matcher is None:
        raise TrainingError(f"{artifact.folder}: a teacher without a matcher cannot train one")
    own = student.keypoint_extractor
    if student.part == "matcher" and matcher is not None and own is not None:
        if extractor is not None and _same_weights(extractor, own):
            extractor = None  # its output would be that of the student's
        expected, given = matcher.config.descriptor_dim, own.config.descriptor_dim
        if extractor is None and expected != given:
            raise TrainingError(
                f"{artifact.folder}: the teacher has no extractor, and its matcher reads "
                f"{expected}-d descriptors, not the {given}-d descriptors of the student; "
                "use a teacher with an extractor"
            )
    for network in (extractor, matcher):
        if network is not None:
            network.eval().requires_grad_(False)
    return Teacher(extractor, matcher)


def _same_weights(first: SuperPoint, second: SuperPoint) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[k].cpu().numpy(), theirs[k].cpu().numpy()) for k in ours
    )
