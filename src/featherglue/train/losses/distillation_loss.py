"""The loss of distillation: a student learns from its teacher and from the ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.errors import ConfigError
from featherglue.models.superglue import SuperGlue
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.loader import Batch, batch_of
from featherglue.train.losses.descriptor_map import MapKind
from featherglue.train.losses.divergences import (
    Distance,
    assignment_divergence,
    descriptor_distance,
    score_map_divergence,
)
from featherglue.train.losses.student_teacher import Student, Teacher
from featherglue.train.losses.superglue_loss import SuperGlueLoss
from featherglue.train.losses.superpoint_loss import SuperPointLoss, both_views


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Weights and forms of the distillation losses; a weight of 0 disables a loss.

    Attributes:
        scores: weight of the divergence from the teacher's score map.
        descriptors: weight of the distance from the teacher's descriptors.
        assignment: weight of the divergence from the teacher's assignment.
        true_views: weight of the extractor's loss without a teacher.
        true_matches: weight of the matcher's loss without a teacher.
        temperature: softens both score maps.
        distance: distance of descriptors, "cosine" or "l2".
        map: map of the student's descriptors to the teacher's if their widths differ: "learned"
            with the student, or "procrustes", fitted in closed form.

    Raises:
        ConfigError: a value is out of range.
    """

    scores: float = 1.0
    descriptors: float = 1.0
    assignment: float = 1.0
    true_views: float = 0.5
    true_matches: float = 0.5
    temperature: float = 1.0
    distance: Distance = "cosine"
    map: MapKind = "learned"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be positive, not {self.temperature}")
        for name in ("scores", "descriptors", "assignment", "true_views", "true_matches"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class DistillationLoss:
    """The loss of a `Student` on a combined batch.

    The extractor learns from the source "views" (`ViewPairs` or `SceneViewPairs`), the matcher
    from the source "scenes".

    Attributes:
        teacher: the frozen teacher.
        config: weights of the losses.
        superpoint: the extractor's loss without a teacher.
        superglue: the matcher's loss without a teacher. Its extractor finds the keypoints; if it
            is the student's own, it gets no gradient from the matcher.
        group: the processes of the run.
    """

    teacher: Teacher
    config: DistillationConfig
    superpoint: SuperPointLoss
    superglue: SuperGlueLoss | None
    group: ProcessGroup = field(default_factory=ProcessGroup)

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss and the metrics to report."""
        assert isinstance(network, Student)
        losses: list[Tensor] = []
        metrics: dict[str, float] = {}
        if network.extractor is not None:
            loss, found = self._extractor_loss(network, batch_of("views", batch))
            losses.append(loss)
            metrics |= found
        if network.matcher is not None:
            loss, found = self._matcher_loss(network.matcher, batch_of("scenes", batch))
            losses.append(loss)
            metrics |= found
        return torch.stack(losses).sum(), metrics

    def _extractor_loss(self, network: Student, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert network.extractor is not None and network.descriptor_map is not None
        images = both_views(batch)
        logits, dense = network.extractor.forward_raw(images)
        teacher_logits, teacher_dense = self.teacher.extract(images)
        inside = torch.cat((batch["inside0"], batch["inside1"]))
        config = self.config
        with torch.autocast(images.device.type, enabled=False):
            scores = score_map_divergence(logits, teacher_logits, inside, config.temperature)
            ours, theirs = (
                F.normalize(d.float(), dim=1).permute(0, 2, 3, 1)[inside]
                for d in (dense, teacher_dense)
            )
            if network.training:
                network.descriptor_map.update(ours, theirs, self.group)
            distance = descriptor_distance(network.descriptor_map(ours), theirs, config.distance)
        metrics = {
            "score_gap": float(scores.detach()),
            "descriptor_gap": float(distance.detach()),
        }
        loss = config.scores * scores + config.descriptors * distance
        if config.true_views:
            true, found = self.superpoint.from_outputs(logits, dense, batch)
            loss, metrics = loss + config.true_views * true, metrics | found
        return loss, metrics

    def _matcher_loss(self, network: SuperGlue, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert self.superglue is not None
        extractor = self.superglue.extractor
        training = extractor.training
        extractor.eval()
        pairs = self.superglue.find_keypoints(batch)
        extractor.train(training)
        assignments = self.superglue.assign(network, pairs)
        target = self.teacher.assign(pairs, batch, self.superglue)
        valid = pairs.valid.chunk(2)
        divergences = torch.stack(
            [assignment_divergence(assignment, target, *valid) for assignment in assignments]
        )
        loss = self.config.assignment * divergences.mean()
        metrics = {"assignment_gap": float(divergences[-1].detach())}
        true, found = self.superglue.from_assignments(assignments, pairs)
        if self.config.true_matches:
            loss = loss + self.config.true_matches * true
        return loss, metrics | found
