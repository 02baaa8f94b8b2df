"""SuperGlue (Sarlin, DeTone, Malisiewicz, Rabinovich: SuperGlue: Learning Feature Matching with
Graph Neural Networks, CVPR 2020), with any sizes.

The sub-modules carry the published names (kenc, gnn.layers.i.attn.proj.j, attn.merge, mlp,
final_proj, bin_score); 1×1 convolutions are linear layers here, over (B, N, C).

Shape legend: B pairs, N keypoints (N0, N1 of the two images), C width, h heads, d width of a
head, D descriptor width. A mask is (B, N) bool, True where a keypoint is real.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.config import AttentionConfig, SuperGlueConfig


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over (B, N, C) that ignores padded keypoints in its statistics."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None or not self.training:
            return super().forward(x.flatten(0, 1)).view_as(x)
        real = super().forward(x[mask])
        return torch.zeros_like(x, dtype=real.dtype).masked_scatter(mask[..., None], real)


class MLP(nn.Sequential):
    """Linear layers with batch normalisation (if any) and ReLU between them."""

    def __init__(self, widths: Sequence[int], batch_norm: bool) -> None:
        layers: list[nn.Module] = []
        for i in range(1, len(widths)):
            layers.append(nn.Linear(widths[i - 1], widths[i]))
            if i < len(widths) - 1:
                if batch_norm:
                    layers.append(MaskedBatchNorm(widths[i]))
                layers.append(nn.ReLU())
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        super().__init__(*layers)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x, mask) if isinstance(layer, MaskedBatchNorm) else layer(x)
        return x


class KeypointEncoder(nn.Module):
    """Encodes (x, y, score) and gives what is added to the descriptor."""

    def __init__(self, config: SuperGlueConfig) -> None:
        super().__init__()
        self.encoder = MLP((3, *config.keypoint_encoder, config.width), config.batch_norm)

    def forward(self, keypoints: Tensor, scores: Tensor, mask: Tensor | None) -> Tensor:
        """keypoints (B, N, 2) normalised, scores (B, N) -> (B, N, C)."""
        encoded: Tensor = self.encoder(torch.cat((keypoints, scores[..., None]), -1), mask)
        return encoded


class DotProductAttention(nn.Module):
    """softmax(Q Kᵀ / √d) V, without weights of its own."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """query (B, h, N, d), key and value (B, h, M, d) -> (B, h, N, d)."""
        if query.is_cuda:
            query, key, value = _laid_out(query), _laid_out(key), _laid_out(value)
        return F.scaled_dot_product_attention(query, key, value, mask)


def _laid_out(heads: Tensor) -> Tensor:
    """As the fused kernels want it: heads one after the other, every stride that of its size.

    What has a single head counts as contiguous whatever the stride of that axis, and the kernels
    refuse one that is not aligned; `view` gives it its own.
    """
    return heads.contiguous().view(heads.shape)


class Similarity(nn.Module):
    """The products of all features of two images, without weights of its own."""

    def forward(self, projected0: Tensor, projected1: Tensor) -> Tensor:
        """(B, N0, C), (B, N1, C) -> (B, N0, N1)."""
        return projected0 @ projected1.transpose(1, 2) / math.sqrt(projected0.shape[2])


class Attention(nn.Module):
    """Multi-head attention; the heads are interleaved: channel c belongs to head c mod h."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.proj = nn.ModuleList(nn.Linear(width, heads * head_dim) for _ in range(3))
        self.merge = nn.Linear(heads * head_dim, width)
        self.product: nn.Module = DotProductAttention()

    def forward(self, x: Tensor, source: Tensor, source_mask: Tensor | None) -> Tensor:
        """x (B, N, C) attends to source (B, M, C) -> (B, N, C)."""
        query, key, value = (
            layer(t).unflatten(-1, (self.head_dim, self.heads)).permute(0, 3, 1, 2)
            for layer, t in zip(self.proj, (x, source, source), strict=True)
        )  # each (B, h, N or M, d)
        mask = None if source_mask is None else source_mask[:, None, None]
        message = self.product(query, key, value, mask)
        merged: Tensor = self.merge(message.permute(0, 2, 3, 1).flatten(2))
        return merged


class AttentionLayer(nn.Module):
    """A message from the attended keypoints, and the update of the features by an MLP."""

    def __init__(self, width: int, config: AttentionConfig, batch_norm: bool) -> None:
        super().__init__()
        self.kind = config.kind
        self.attn = Attention(width, config.heads, config.head_dim)
        self.mlp = MLP((width * 2, config.hidden, width), batch_norm)

    def forward(
        self, x: Tensor, source: Tensor, mask: Tensor | None, source_mask: Tensor | None
    ) -> Tensor:
        """The residual (B, N, C) to add to x."""
        message = self.attn(x, source, source_mask)
        residual: Tensor = self.mlp(torch.cat((x, message), -1), mask)
        return residual


class GraphNetwork(nn.Module):
    """The attention layers."""

    def __init__(self, config: SuperGlueConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            AttentionLayer(config.width, layer, config.batch_norm) for layer in config.layers
        )


class SuperGlue(nn.Module):
    """The matcher: from two sets of features to a matrix of scores."""

    def __init__(self, config: SuperGlueConfig) -> None:
        super().__init__()
        self.config = config
        self.input_proj: nn.Module = nn.Identity()
        if config.descriptor_dim != config.width:
            self.input_proj = nn.Linear(config.descriptor_dim, config.width)
        self.kenc = KeypointEncoder(config)
        self.gnn = GraphNetwork(config)
        self.final_proj = nn.Linear(config.width, config.width)
        self.product = Similarity()
        self.bin_score = nn.Parameter(torch.tensor(1.0))

    @torch.no_grad()
    def start_from_descriptors(self, temperature: float = 0.05, unmatched: float = 0.7) -> None:
        """Set the weights so that the untrained network compares descriptors as they are.

        Nothing is added to the descriptors yet, the final projection is a multiple of the
        identity, and the dustbin stands for a cosine similarity of `unmatched`. Training then
        starts from nearest neighbours instead of from noise.

        Args:
            temperature: what cosine similarities are divided by.
        """
        for mlp in (module for module in self.modules() if isinstance(module, MLP)):
            last = mlp[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        if isinstance(self.input_proj, nn.Linear):
            nn.init.orthogonal_(self.input_proj.weight)
            nn.init.zeros_(self.input_proj.bias)
        scale = math.sqrt(math.sqrt(self.config.width) / temperature)
        nn.init.eye_(self.final_proj.weight).mul_(scale)
        nn.init.zeros_(self.final_proj.bias)
        self.bin_score.fill_(unmatched / temperature)

    def encode(
        self, keypoints: Tensor, scores: Tensor, descriptors: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Features before any attention.

        Args:
            keypoints: (B, N, 2) from `normalize_keypoints`. scores: (B, N).
            descriptors: (B, N, D), L2-normalised.

        Returns:
            (B, N, C).
        """
        encoded: Tensor = self.input_proj(descriptors) + self.kenc(keypoints, scores, mask)
        return encoded

    def attend(
        self,
        features0: Tensor,
        features1: Tensor,
        mask0: Tensor | None = None,
        mask1: Tensor | None = None,
        first: int = 0,
        depth: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features (B, N0, C) and (B, N1, C) after the layers from `first` to before `depth`.

        With masks and as many keypoints both images go through each layer as one batch, as in
        training: batch normalisation then takes its statistics over both.
        """
        layers = list(self.gnn.layers)[first:depth]
        if features0.shape == features1.shape and mask0 is not None and mask1 is not None:
            both, masks = torch.cat((features0, features1)), torch.cat((mask0, mask1))
            other = masks.roll(len(mask0), 0)
            for layer in layers:
                cross = layer.kind == "cross"
                source = both.roll(len(mask0), 0) if cross else both
                both = both + layer(both, source, masks, other if cross else masks)
            return both[: len(mask0)], both[len(mask0) :]
        for layer in layers:
            cross = layer.kind == "cross"
            source0, source1 = (features1, features0) if cross else (features0, features1)
            seen0, seen1 = (mask1, mask0) if cross else (mask0, mask1)
            residual0 = layer(features0, source0, mask0, seen0)
            residual1 = layer(features1, source1, mask1, seen1)
            features0, features1 = features0 + residual0, features1 + residual1
        return features0, features1

    def similarity(self, features0: Tensor, features1: Tensor) -> Tensor:
        """Score matrix (B, N0, N1) of attended features."""
        projected0, projected1 = self.final_proj(features0), self.final_proj(features1)
        scores: Tensor = self.product(projected0, projected1)
        return scores

    def forward(
        self,
        keypoints0: Tensor,
        scores0: Tensor,
        descriptors0: Tensor,
        keypoints1: Tensor,
        scores1: Tensor,
        descriptors1: Tensor,
        mask0: Tensor | None = None,
        mask1: Tensor | None = None,
    ) -> Tensor:
        """Score matrix (B, N0, N1), before the optimal matching layer."""
        features0 = self.encode(keypoints0, scores0, descriptors0, mask0)
        features1 = self.encode(keypoints1, scores1, descriptors1, mask1)
        return self.similarity(*self.attend(features0, features1, mask0, mask1))


def normalize_keypoints(keypoints: Tensor, size: Tensor) -> Tensor:
    """(k − size/2) / (0.7·max(size)), as published.

    Args:
        keypoints: (B, N, 2) xy pixels. size: (B, 2) width and height.
    """
    size = size[:, None].to(keypoints)
    return (keypoints - size / 2) / (0.7 * size.amax(-1, keepdim=True))


def mutual_matches(assignment: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mutual best assignments above a probability.

    Args:
        assignment: (B, N0+1, N1+1) log probabilities.

    Returns:
        matches0 (B, N0) and matches1 (B, N1) int64, −1 for none; their scores (B, N0) and
        (B, N1) in [0, 1], 0 where the best assignment is not mutual (as published, a mutual one
        below the threshold keeps its score).
    """
    inner = assignment[:, :-1, :-1]
    best0, best1 = inner.max(2), inner.max(1)
    index0, index1 = best0.indices, best1.indices
    mutual0 = torch.arange(index0.shape[1], device=index0.device) == index1.gather(1, index0)
    mutual1 = torch.arange(index1.shape[1], device=index1.device) == index0.gather(1, index1)
    zero = inner.new_tensor(0)
    scores0 = torch.where(mutual0, best0.values.exp(), zero)
    scores1 = torch.where(mutual1, scores0.gather(1, index1), zero)
    valid0 = mutual0 & (scores0 > threshold)
    valid1 = mutual1 & valid0.gather(1, index1)
    return (
        torch.where(valid0, index0, -1),
        torch.where(valid1, index1, -1),
        scores0,
        scores1,
    )
