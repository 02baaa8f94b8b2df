"""The published loss on descriptors: a hinge over all pairs of cells of two views.

DeTone, Malisiewicz, Rabinovich: SuperPoint (2018), equations 3 to 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from featherglue.artifact.layers import CELL
from featherglue.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class HingeConfig:
    """Weights and margins of the hinge loss; the defaults are the published ones.

    Attributes:
        weight: weight λ of this loss relative to the detector loss.
        positive: weight λ_d of corresponding cells relative to the other pairs.
        positive_margin: corresponding cells are pulled together below this cosine.
        negative_margin: other pairs are pushed apart above this cosine.
        near: maximum distance in pixels between the mapped center of a cell and the center of a
            corresponding cell.

    Raises:
        ConfigError: a value is out of range.
    """

    weight: float = 0.0001
    positive: float = 250.0
    positive_margin: float = 1.0
    negative_margin: float = 0.2
    near: float = 8.0

    def __post_init__(self) -> None:
        for name in ("weight", "positive", "near"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")


def hinge_loss(
    dense0: Tensor,
    dense1: Tensor,
    homographies: Tensor,
    inside0: Tensor,
    inside1: Tensor,
    config: HingeConfig,
) -> Tensor:
    """The mean over all pairs of a cell of view 0 and a cell of view 1 inside the photograph.

    Args:
        dense0, dense1: (B, D, Hc, Wc) descriptors of the cells, of any length.
        homographies: (B, 3, 3) H_0to1, pixels to pixels.
        inside0, inside1: (B, Hc, Wc) bool, cells that show the photograph.

    Returns:
        Scalar, before multiplication by `config.weight`; 0 if no cell counts.
    """
    first, second = (F.normalize(d.float(), dim=1).flatten(2) for d in (dense0, dense1))
    with torch.autocast(dense0.device.type, enabled=False):
        cosine = first.transpose(1, 2) @ second  # (B, Hc·Wc, Hc·Wc)
    corresponding = corresponding_cells(homographies, dense0.shape[2], dense0.shape[3], config.near)
    pull = config.positive * (config.positive_margin - cosine).clamp_min(0)
    push = (cosine - config.negative_margin).clamp_min(0)
    counts = inside0.flatten(1)[:, :, None] & inside1.flatten(1)[:, None]
    terms = torch.where(corresponding, pull, push) * counts
    return terms.sum() / counts.sum().clamp_min(1)


@torch.no_grad()
def corresponding_cells(homographies: Tensor, height: int, width: int, near: float) -> Tensor:
    """Pairs of cells whose centers are within `near` px after mapping view 0 to view 1.

    Args:
        homographies: (B, 3, 3) H_0to1 in pixels.
        height, width: number of rows and columns of cells.

    Returns:
        (B, height·width, height·width) bool; rows are the cells of view 0.
    """
    device = homographies.device
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    centers = torch.stack((x, y), -1).flatten(0, 1).float() * CELL + (CELL - 1) / 2
    with torch.autocast(device.type, enabled=False):
        mapped = F.pad(centers, (0, 1), value=1.0) @ homographies.float().transpose(1, 2)
    w = mapped[..., 2:]
    projected = mapped[..., :2] / w.clamp_min(1e-6)  # points behind the camera land far away
    distances = (projected[:, :, None] - centers).norm(dim=-1)
    corresponding: Tensor = (distances <= near) & (w > 0)
    return corresponding
