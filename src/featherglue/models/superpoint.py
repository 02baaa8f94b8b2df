"""The SuperPoint extractor, of any size.

DeTone, Malisiewicz, Rabinovich: SuperPoint: Self-Supervised Interest Point Detection and
Description, CVPR Workshops 2018.

Shape legend: B images, H×W pixels (multiples of 8), Hc = H/8, Wc = W/8 cells, D descriptor width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.artifact.layers import (
    CELL,
    ENCODER,
    ContextLevel,
    context_levels,
    pooled_layers,
)
from featherglue.config import SuperPointConfig


class SuperPoint(nn.Module):
    """Detector and descriptor network.

    The convolutions have the published names: conv1a … conv4b, convPa, convPb, convDa, convDb.
    With `config.batch_norm` each but convPb and convDb is followed by batch normalization
    (bn1a … bnDa).

    With `config.context_channels` the descriptors use a context branch too. Level i has convC{i}a
    and convC{i}b at half the resolution of the level above, and convC{i}p, a 1×1 convolution. Its
    output is upsampled and added to the level above.

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: SuperPointConfig) -> None:
        super().__init__()
        self.config = config
        self.pooled = pooled_layers(config.stem)
        previous = 1
        for name, width in zip(ENCODER, config.channels, strict=True):
            # A 4×4 kernel with stride 2 centers its outputs between four pixels, as pooling does.
            kernel, stride = (4, 2) if name == ENCODER[0] and config.stem == 2 else (3, 1)
            self._add(name, previous, width, kernel, config.batch_norm, stride)
            previous = width
        self._add("Pa", previous, config.detector_channels, 3, config.batch_norm)
        self._add("Pb", config.detector_channels, CELL * CELL + 1, 1, False)
        for level in context_levels(config):
            self._add(level.first, level.inputs, level.hidden, 3, config.batch_norm)
            self._add(level.second, level.hidden, level.outputs, 3, config.batch_norm)
            self._add(level.projection, level.outputs, level.inputs, 1, False)
        self._add("Da", previous, config.descriptor_channels, 3, config.batch_norm)
        self._add("Db", config.descriptor_channels, config.descriptor_dim, 1, False)

    def _add(
        self, name: str, inputs: int, outputs: int, kernel: int, batch_norm: bool, stride: int = 1
    ) -> None:
        padding = (kernel - stride + 1) // 2
        self.add_module(f"conv{name}", nn.Conv2d(inputs, outputs, kernel, stride, padding))
        if batch_norm:
            self.add_module(f"bn{name}", nn.BatchNorm2d(outputs))

    def _block(self, name: str, x: Tensor) -> Tensor:
        """Convolution, batch normalization if there is one, ReLU."""
        x = self.get_submodule(f"conv{name}")(x)
        if self.config.batch_norm:
            x = self.get_submodule(f"bn{name}")(x)
        return F.relu(x)

    def forward_raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Detector logits and descriptors without normalization.

        Args:
            image: (B, 1, H, W) gray in [0, 1].

        Returns:
            Logits (B, 65, Hc, Wc), whose last channel is "no keypoint", and descriptors
            (B, D, Hc, Wc).
        """
        x = self.encode(image)
        return self.detect(x), self.describe(x)

    def encode(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run the convolutions `start` to `stop` of the encoder, with their pooling.

        Args:
            x: image (B, 1, H, W) in [0, 1], or the output of convolution `start` − 1.
            start, stop: range of indices into `ENCODER`; None runs to the last.

        Returns:
            (B, C, H', W'); (B, C, Hc, Wc) after the last convolution.
        """
        for name in ENCODER[start:stop]:
            x = self._block(name, x)
            if name in self.pooled:
                x = F.max_pool2d(x, 2)
        return x

    def detect(self, x: Tensor) -> Tensor:
        """Encoder output (B, C, Hc, Wc) -> detector logits (B, 65, Hc, Wc)."""
        logits: Tensor = self.get_submodule("convPb")(self._block("Pa", x))
        return logits

    def describe(self, x: Tensor) -> Tensor:
        """Encoder output (B, C, Hc, Wc) -> descriptors (B, D, Hc, Wc) without normalization."""
        x = self._add_context(x, context_levels(self.config))
        descriptors: Tensor = self.get_submodule("convDb")(self._block("Da", x))
        return descriptors

    def _add_context(self, x: Tensor, levels: list[ContextLevel]) -> Tensor:
        """Add the projected and upsampled output of the levels below to x (B, C, H', W')."""
        if not levels:
            return x
        # A map with an odd side keeps its last row or column.
        y = F.max_pool2d(x, 2, ceil_mode=True)
        y = self._block(levels[0].second, self._block(levels[0].first, y))
        y = self.get_submodule(f"conv{levels[0].projection}")(self._add_context(y, levels[1:]))
        y = F.interpolate(y, scale_factor=2, mode="bilinear")
        return x + y[..., : x.shape[-2], : x.shape[-1]]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score map and descriptors.

        Args:
            image: (B, 1, H, W) gray in [0, 1].

        Returns:
            Scores (B, H, W) in [0, 1], before non-maximum suppression, and descriptors
            (B, D, Hc, Wc), L2-normalized over D.
        """
        logits, descriptors = self.forward_raw(image)
        return score_map(logits), F.normalize(descriptors, dim=1)


def score_map(logits: Tensor) -> Tensor:
    """Score map of detector logits: a softmax over the channels without "no keypoint".

    Args:
        logits: (B, 65, Hc, Wc); channel 8·y + x is pixel (x, y) of the cell.

    Returns:
        (B, H, W) probabilities in [0, 1].
    """
    probabilities = logits.softmax(1)[:, :-1]
    return F.pixel_shuffle(probabilities, CELL).squeeze(1)
