"""The SuperGlue matcher, of any size.

Sarlin, DeTone, Malisiewicz, Rabinovich: SuperGlue: Learning Feature Matching with Graph Neural
Networks, CVPR 2020. Sub-modules have the published names; 1×1 convolutions are linear layers.

Shape legend: B pairs, N keypoints (N0 and N1 of the two images), C feature width, D descriptor
width. A mask is (B, N) bool, False for padding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from featherglue.config import SuperGlueConfig
from featherglue.models.attention import AttentionLayer
from featherglue.models.mlp import MLP


class KeypointEncoder(nn.Module):
    """Encodes position and score of a keypoint; the result is added to its descriptor."""

    def __init__(self, config: SuperGlueConfig) -> None:
        super().__init__()
        self.encoder = MLP((3, *config.keypoint_encoder, config.width), config.batch_norm)

    def forward(self, keypoints: Tensor, scores: Tensor, mask: Tensor | None) -> Tensor:
        """keypoints (B, N, 2) from `normalize_keypoints`, scores (B, N) -> (B, N, C)."""
        encoded: Tensor = self.encoder(torch.cat((keypoints, scores[..., None]), -1), mask)
        return encoded


class Similarity(nn.Module):
    """Scaled dot products of all features of two images. It has no weights."""

    def forward(self, projected0: Tensor, projected1: Tensor) -> Tensor:
        """(B, N0, C), (B, N1, C) -> (B, N0, N1)."""
        return projected0 @ projected1.transpose(1, 2) / math.sqrt(projected0.shape[2])


class GraphNetwork(nn.Module):
    """The attention layers. `SuperGlue.attend` runs them."""

    def __init__(self, config: SuperGlueConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            AttentionLayer(config.width, layer, config.batch_norm) for layer in config.layers
        )


class SuperGlue(nn.Module):
    """The matcher network: two sets of features to a score matrix.

    Args:
        config: sizes of the network.
    """

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
    def init_from_descriptors(self, temperature: float = 0.05, unmatched: float = 0.7) -> None:
        """Initialize the weights so that the score matrix is that of the descriptors alone.

        All layers add zero to the descriptors and the final projection is a multiple of the
        identity. Training then starts from nearest-neighbor matching instead of noise.

        Args:
            temperature: divisor of the cosine similarities.
            unmatched: cosine similarity that the dustbin stands for.
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
        """Features of one image before attention.

        Args:
            keypoints: (B, N, 2) from `normalize_keypoints`.
            scores: (B, N) detection scores in [0, 1].
            descriptors: (B, N, D), L2-normalized.
            mask: (B, N), or None for no padding.

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
        start: int = 0,
        stop: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features of both images after the attention layers.

        With masks and the same number of keypoints, both images run through each layer as one
        batch, so that batch normalization takes its statistics over both.

        Args:
            features0, features1: (B, N0, C) and (B, N1, C).
            mask0, mask1: (B, N0) and (B, N1), or None for no padding.
            start, stop: range of the layers to run; None runs to the last.

        Returns:
            (B, N0, C) and (B, N1, C).
        """
        layers = list(self.gnn.layers)[start:stop]
        if features0.shape == features1.shape and mask0 is not None and mask1 is not None:
            both, masks = torch.cat((features0, features1)), torch.cat((mask0, mask1))
            batch, swapped_masks = len(mask0), masks.roll(len(mask0), 0)
            for layer in layers:
                cross = layer.kind == "cross"
                source = both.roll(batch, 0) if cross else both
                both = both + layer(both, source, masks, swapped_masks if cross else masks)
            return both[:batch], both[batch:]
        for layer in layers:
            cross = layer.kind == "cross"
            source0, source1 = (features1, features0) if cross else (features0, features1)
            source_mask0, source_mask1 = (mask1, mask0) if cross else (mask0, mask1)
            residual0 = layer(features0, source0, mask0, source_mask0)
            residual1 = layer(features1, source1, mask1, source_mask1)
            features0, features1 = features0 + residual0, features1 + residual1
        return features0, features1

    def similarity(self, features0: Tensor, features1: Tensor) -> Tensor:
        """Score matrix (B, N0, N1) of features after attention, (B, N0, C) and (B, N1, C)."""
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
        """Score matrix, the input of the Sinkhorn iterations.

        Args:
            keypoints0, keypoints1: (B, N0, 2) and (B, N1, 2) from `normalize_keypoints`.
            scores0, scores1: (B, N0) and (B, N1) detection scores in [0, 1].
            descriptors0, descriptors1: (B, N0, D) and (B, N1, D), L2-normalized.
            mask0, mask1: (B, N0) and (B, N1), or None for no padding.

        Returns:
            (B, N0, N1).
        """
        features0 = self.encode(keypoints0, scores0, descriptors0, mask0)
        features1 = self.encode(keypoints1, scores1, descriptors1, mask1)
        return self.similarity(*self.attend(features0, features1, mask0, mask1))


def normalize_keypoints(keypoints: Tensor, size: Tensor) -> Tensor:
    """Keypoints relative to the image center, divided by 0.7 times the longer side.

    Args:
        keypoints: (B, N, 2) xy pixels.
        size: (B, 2) width and height, pixels.

    Returns:
        (B, N, 2).
    """
    size = size[:, None].to(keypoints)
    return (keypoints - size / 2) / (0.7 * size.amax(-1, keepdim=True))


def mutual_matches(assignment: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs of keypoints that are each other's best assignment.

    Args:
        assignment: (B, N0+1, N1+1) log probabilities from `log_optimal_transport`.
        threshold: minimum probability of a match, in [0, 1].

    Returns:
        matches0 (B, N0) and matches1 (B, N1) int64, index of the match in the other image or −1;
        confidence0 (B, N0) and confidence1 (B, N1) in [0, 1], 0 where the best assignment is not
        mutual. As published, a mutual assignment below the threshold keeps its confidence.
    """
    inner = assignment[:, :-1, :-1]
    best0, best1 = inner.max(2), inner.max(1)
    index0, index1 = best0.indices, best1.indices
    mutual0 = torch.arange(index0.shape[1], device=index0.device) == index1.gather(1, index0)
    mutual1 = torch.arange(index1.shape[1], device=index1.device) == index0.gather(1, index1)
    zero = inner.new_tensor(0)
    confidence0 = torch.where(mutual0, best0.values.exp(), zero)
    confidence1 = torch.where(mutual1, confidence0.gather(1, index1), zero)
    valid0 = mutual0 & (confidence0 > threshold)
    valid1 = mutual1 & valid0.gather(1, index1)
    return (
        torch.where(valid0, index0, -1),
        torch.where(valid1, index1, -1),
        confidence0,
        confidence1,
    )
