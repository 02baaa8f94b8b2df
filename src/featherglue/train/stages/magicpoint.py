"""The stage that teaches a detector synthetic shapes: MagicPoint (DeTone 2018, section 4)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from featherglue.config import ArchitectureConfig, SuperPointConfig
from featherglue.data.synthetic_shapes import ShapesConfig, SyntheticShapes
from featherglue.models.keypoints import find_keypoints
from featherglue.models.model import Model
from featherglue.models.superpoint import score_map
from featherglue.train.engine.distributed import join_world
from featherglue.train.engine.loader import Batch
from featherglue.train.engine.loop import LoopConfig, check_time, train
from featherglue.train.losses.terms import detector_loss
from featherglue.train.stages.run_setup import (
    history,
    keep_settings,
    provenance,
    save_models,
    start_from,
    trained_on,
)


@dataclass(frozen=True, kw_only=True)
class ShapesLoss:
    """Cell cross-entropy on the corners of shapes; descriptors are left as they are.

    Attributes:
        threshold: lowest score of a detection that is reported on.
        nms_radius: pixels in which it suppresses weaker ones.
        near: pixels within which it is true. judged: pictures of a batch that are reported on.
    """

    threshold: float = 0.015
    nms_radius: int = 4
    near: float = 2.0
    judged: int = 4

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Loss, precision and recall of a batch of `SyntheticShapes`."""
        for name, layer in network.named_modules():
            if name == "bnDa":
                layer.eval()  # its statistics belong to the descriptors
        images = batch["image0"].float() / 255
        images = images.contiguous(memory_format=torch.channels_last)
        logits, _ = network.forward_raw(images)  # type: ignore[operator]
        loss = detector_loss(logits, batch["labels0"], batch["inside0"])
        few = slice(0, self.judged)
        scores = score_map(logits[few].detach().float())
        precision, recall = self.judge(scores, batch["points0"][few], batch["count"][few])
        return loss, {"precision": precision, "recall": recall}

    @torch.no_grad()
    def judge(self, scores: Tensor, points: Tensor, count: Tensor) -> tuple[float, float]:
        """Share of the detections that lie near a corner, and of the corners near a detection.

        Args:
            scores: (B, H, W). points: (B, P, 2) xy, padded. count: (B,), how many are real.
        """
        found, _, valid = find_keypoints(
            scores, points.shape[1], self.nms_radius, 0, self.threshold
        )
        real = torch.arange(points.shape[1], device=count.device)[None] < count[:, None]
        near = torch.cdist(found, points.float()) <= self.near
        near &= valid[:, :, None] & real[:, None]
        hits, hit = near.any(2).sum(), near.any(1).sum()
        return float(hits / valid.sum().clamp_min(1)), float(hit / real.sum().clamp_min(1))


@dataclass(frozen=True, kw_only=True)
class ShapesStage:
    """The detector, from scratch, on synthetic shapes.

    Attributes:
        start: folder of a model whose extractor to start from; "" starts from scratch.
    """

    loop: LoopConfig
    architecture: SuperPointConfig = field(default_factory=SuperPointConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    loss: ShapesLoss = field(default_factory=ShapesLoss)
    start: str = ""
    seed: int = 0
    data: str = "synthetic shapes"


def train_shapes(
    stage: ShapesStage,
    images: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    *,
    minutes: float = float("inf"),
    device: str = "cpu",
    report: Callable[[int, dict[str, float]], None] = lambda step, row: None,
) -> Model:
    """Train an extractor's detector and save it, with its run, as the model `folder/model`.

    Args:
        images: not looked at, for shapes need no photographs; None is as good.
        folder: of the run; one that holds a checkpoint goes on.
        minutes: stop, resumable, after this time.

    Raises:
        TrainingError: a loss that is not finite, a foreign checkpoint, other settings.
    """
    check_time(stage.loop, minutes, folder)
    world, device = join_world(device)
    keep_settings(stage, folder)
    torch.manual_seed(stage.seed)
    model = Model.build(ArchitectureConfig(extractor=stage.architecture))
    assert model.extractor is not None
    if stage.start:
        start_from(model.extractor, Model.load(stage.start), stage.start)
    network = model.extractor.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = SyntheticShapes(stage.shapes, stage.seed)
    average = train(
        network,
        stage.loss,
        samples,
        stage.loop,
        folder,
        minutes=minutes,
        report=report,
        world=world,
    )
    before = history(stage.start, "extractor")
    facts = trained_on(device, world)
    made = provenance(before, "shapes", stage, folder, facts, (stage.start,))
    model = replace(model, provenance=made)
    return save_models(lambda net: replace(model, extractor=net), average, folder, world)
