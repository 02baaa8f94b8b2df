"""What distillation trains, who teaches it, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.errors import ConfigError
from featherglue.models.keypoints import sample_descriptors
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint, score_map
from featherglue.train.engine.distributed import World
from featherglue.train.engine.loader import Batch, Batches, Samples
from featherglue.train.engine.precision import autocast
from featherglue.train.losses.distillation import (
    DescriptorMap,
    Distance,
    MapKind,
    assignment_gap,
    descriptor_gap,
    score_map_gap,
)
from featherglue.train.losses.superglue_loss import KeypointPairs, SuperGlueLoss
from featherglue.train.losses.superpoint_loss import SuperPointLoss, both_views


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """The weights of the losses, 0 for none, and how a teacher is imitated.

    Attributes:
        scores: of the divergence from the teacher's score map. descriptors: of the distance from
            its descriptors. assignment: of the divergence from its assignment.
        true_views: of the extractor's loss without a teacher. true_matches: of the matcher's.
        temperature: that softens both score maps.
        distance: of descriptors, "cosine" or "l2".
        map: of the student's descriptors to the teacher's where their widths differ: "learned"
            along with the student, or "procrustes", fitted in closed form.
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
                raise ConfigError(f"{name} cannot be negative, as {getattr(self, name)} is")


class Student(nn.Module):
    """The networks that are trained, and what maps their descriptors to the teacher's.

    Args:
        extractor, matcher: None where it is not trained.
        descriptor_map: belongs to the training of an extractor, not to the model.
    """

    def __init__(
        self,
        extractor: SuperPoint | None,
        matcher: SuperGlue | None,
        descriptor_map: DescriptorMap | None,
    ) -> None:
        super().__init__()
        self.extractor, self.matcher = extractor, matcher
        self.descriptor_map = descriptor_map


@dataclass(frozen=True, eq=False)
class Teacher:
    """Frozen networks, in evaluation mode.

    Attributes:
        extractor: None lets the matcher see the student's descriptors and scores.
    """

    extractor: SuperPoint | None
    matcher: SuperGlue | None

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Cell logits (B, 65, Hc, Wc) and raw descriptors (B, E, Hc, Wc) of (B, 1, H, W)."""
        assert self.extractor is not None
        with torch.no_grad():
            return self.extractor.forward_raw(images)

    @torch.no_grad()
    def assign(self, pairs: KeypointPairs, batch: Batch, loss: SuperGlueLoss) -> Tensor:
        """Its log assignment (B, N+1, N+1) of the keypoints of a student's extractor.

        It sees these points with descriptors of its own, and as score the highest of its score
        map within a pixel.
        """
        assert self.matcher is not None
        if self.extractor is not None:
            images = both_views(batch)
            with autocast(images.device, loss.bf16):
                logits, dense = self.look(images)
            dense = F.normalize(dense.float(), dim=1)
            pairs = replace(
                pairs,
                scores=_highest(score_map(logits.float()), pairs.keypoints),
                descriptors=sample_descriptors(dense, pairs.keypoints, "exact"),
            )
        return replace(loss, depths=()).assign(self.matcher, pairs)[-1]


def _highest(heat: Tensor, keypoints: Tensor) -> Tensor:
    """The highest score (B, N) of a map (B, H, W) within a pixel of each keypoint (B, N, 2)."""
    height, width = heat.shape[1:]
    around = F.max_pool2d(heat[:, None], 3, 1, 1).flatten(1)
    x = keypoints[..., 0].round().long().clamp(0, width - 1)
    y = keypoints[..., 1].round().long().clamp(0, height - 1)
    return around.gather(1, y * width + x)


class SideBySide:
    """Endless samples of several sources at once; the keys get the source's name before them."""

    def __init__(self, sources: Mapping[str, Samples]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            f"{name}.{key}": value
            for name, source in self.sources.items()
            for key, value in source[index].items()
        }


class BatchesSideBySide:
    """The same of sources that make batches."""

    def __init__(self, sources: Mapping[str, Batches]) -> None:
        self.sources = dict(sources)

    def batch(self, first: int, count: int) -> Batch:
        """What all sources give."""
        return {
            f"{name}.{key}": value
            for name, source in self.sources.items()
            for key, value in source.batch(first, count).items()
        }


def part_of(batch: Batch, name: str) -> Batch:
    """What one source of `SideBySide` gave."""
    start = f"{name}."
    return {key.removeprefix(start): batch[key] for key in batch if key.startswith(start)}


@dataclass(frozen=True)
class DistillLoss:
    """The loss of a `Student` on a batch of `SideBySide`.

    An extractor is judged on `views` (of `ViewPairs` or `SpatialViews`), a matcher on `scenes`.

    Attributes:
        points: the extractor's loss without a teacher.
        matches: the matcher's; its extractor gives the keypoints, and may be the student's own,
            which then learns nothing from the matcher.
        world: the processes that share the work.
    """

    teacher: Teacher
    imitation: ImitationConfig
    points: SuperPointLoss
    matches: SuperGlueLoss | None
    world: World = field(default_factory=World)

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss, and what to report of it."""
        assert isinstance(network, Student)
        losses: list[Tensor] = []
        row: dict[str, float] = {}
        if network.extractor is not None:
            loss, found = self._of_extractor(network, part_of(batch, "views"))
            losses.append(loss)
            row |= found
        if network.matcher is not None:
            loss, found = self._of_matcher(network.matcher, part_of(batch, "scenes"))
            losses.append(loss)
            row |= found
        return torch.stack(losses).sum(), row

    def _of_extractor(self, network: Student, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert network.extractor is not None and network.descriptor_map is not None
        images = both_views(batch)
        logits, dense = network.extractor.forward_raw(images)
        taught_logits, taught = self.teacher.look(images)
        inside = torch.cat((batch["inside0"], batch["inside1"]))
        how = self.imitation
        with torch.autocast(images.device.type, enabled=False):
            scores = score_map_gap(logits, taught_logits, inside, how.temperature)
            ours, theirs = (
                F.normalize(d.float(), dim=1).permute(0, 2, 3, 1)[inside] for d in (dense, taught)
            )
            if network.training:
                network.descriptor_map.observe(ours, theirs, self.world)
            gap = descriptor_gap(network.descriptor_map(ours), theirs, how.distance)
        row = {"score_gap": float(scores.detach()), "descriptor_gap": float(gap.detach())}
        loss = how.scores * scores + how.descriptors * gap
        if how.true_views:
            true, found = self.points.judge(logits, dense, batch)
            loss, row = loss + how.true_views * true, row | found
        return loss, row

    def _of_matcher(self, network: SuperGlue, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert self.matches is not None
        extractor = self.matches.extractor
        training = extractor.training
        extractor.eval()
        pairs = self.matches.find(batch)
        extractor.train(training)
        assignments = self.matches.assign(network, pairs)
        taught = self.teacher.assign(pairs, batch, self.matches)
        valid = pairs.valid.chunk(2)
        gaps = torch.stack([assignment_gap(ours, taught, *valid) for ours in assignments])
        loss = self.imitation.assignment * gaps.mean()
        row = {"assignment_gap": float(gaps[-1].detach())}
        true, found = self.matches.judge(assignments, pairs)
        if self.imitation.true_matches:
            loss = loss + self.imitation.true_matches * true
        return loss, row | found
