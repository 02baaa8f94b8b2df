"""The loss of SuperPoint as a sum of its terms."""

from __future__ import annotations

import pytest
import torch

from featherglue.errors import ConfigError
from featherglue.models.keypoints import sample_descriptors
from featherglue.train.losses.detector import detector_loss
from featherglue.train.losses.hinge import HingeConfig, hinge_loss
from featherglue.train.losses.superpoint_loss import SuperPointLoss


@pytest.fixture
def outputs() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and descriptors of two pairs of 16×16 pixels, and their batch."""
    torch.manual_seed(0)
    batch = {
        "points0": torch.rand(2, 3, 2) * 15,
        "points1": torch.rand(2, 3, 2) * 15,
        "count": torch.tensor([3, 2]),
        "labels0": torch.randint(0, 65, (2, 2, 2)),
        "labels1": torch.randint(0, 65, (2, 2, 2)),
        "inside0": torch.ones(2, 2, 2, dtype=torch.bool),
        "inside1": torch.tensor([True, False]).expand(2, 2, 2),
        "H_0to1": torch.eye(3).expand(2, 3, 3),
    }
    return torch.randn(4, 65, 2, 2), torch.randn(4, 6, 2, 2), batch


def test_the_published_loss_adds_both_detector_losses_and_the_hinge(
    outputs: tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]],
) -> None:
    logits, dense, batch = outputs
    loss, row = SuperPointLoss(descriptor="hinge").from_outputs(logits, dense, batch)
    insides = batch["inside0"], batch["inside1"]
    hinge = hinge_loss(*dense.chunk(2), batch["H_0to1"], *insides, HingeConfig())
    both = sum(
        detector_loss(part, batch[f"labels{i}"], batch[f"inside{i}"])
        for i, part in enumerate(logits.chunk(2))
    )
    torch.testing.assert_close(loss, 1e-4 * hinge + both)
    assert row["descriptor"] == pytest.approx(1e-4 * float(hinge))
    del batch["H_0to1"]
    with pytest.raises(ConfigError, match="spatial = 0"):
        SuperPointLoss(descriptor="hinge").from_outputs(logits, dense, batch)


def test_negatives_of_the_whole_batch(
    outputs: tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]],
) -> None:
    logits, dense, batch = outputs
    loss, row = SuperPointLoss(negatives="batch").from_outputs(logits, dense, batch)
    points = torch.cat((batch["points0"], batch["points1"]))
    both = sample_descriptors(dense, points, "exact").chunk(2)
    counts = batch["count"].tolist()
    first, second = (
        torch.cat([view[b, :n] for b, n in enumerate(counts)]).double() for view in both
    )
    scaled = (first @ second.T / 0.05).detach()
    terms = (scaled.log_softmax(0) + scaled.log_softmax(1)).diagonal()
    assert row["descriptor"] == pytest.approx(-float(terms.mean()) / 2, rel=1e-4)
    assert row["descriptor"] > SuperPointLoss().from_outputs(logits, dense, batch)[1]["descriptor"]
    assert torch.isfinite(loss)


def test_invalid_settings_are_rejected() -> None:
    for values, message in (
        ({"descriptor": "triplet"}, "dual_softmax"),
        ({"descriptor": "hinge", "reliability": 0.5}, "reliability"),
        ({"descriptor": "hinge", "negatives": "batch"}, "negatives"),
        ({"negatives": "all"}, "negatives"),
        ({"temperature": 0.0}, "temperature"),
    ):
        with pytest.raises(ConfigError, match=message):
            SuperPointLoss(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="near"):
        HingeConfig(near=0.0)
