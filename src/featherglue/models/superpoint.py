"""SuperPoint (DeTone, Malisiewicz, Rabinovich: Self-Supervised Interest Point Detection and
Description, CVPR Workshops 2018), with any widths.

Shape legend: B images, H×W pixels (multiples of 8), Hc = H/8, Wc = W/8 cells, D descriptor width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.artifact.layers import CELL, ENCODER, pooled_layers
from featherglue.config import SuperPointConfig


class SuperPoint(nn.Module):
    """Detector and descriptor network.

    The layers carry the published names (conv1a … conv4b, convPa, convPb, convDa, convDb); with
    `config.batch_norm` each of them but convPb and convDb is followed by bn1a … bnDa.
    """

    def __init__(self, config: SuperPointConfig) -> None:
        super().__init__()
        self.config = config
        self.pooled = pooled_layers(config.stem)
        previous = 1
        for name, width in zip(ENCODER, config.channels, strict=True):
            # A coarse stem's outputs lie between four pixels, as those of a pooling do.
            kernel, stride = (4, 2) if name == ENCODER[0] and config.stem == 2 else (3, 1)
            self._add(name, previous, width, kernel, config.batch_norm, stride)
            previous = width
        self._add("Pa", previous, config.detector_channels, 3, config.batch_norm)
        self._add("Pb", config.detector_channels, CELL * CELL + 1, 1, False)
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
        """Convolution, batch normalisation where there is one, ReLU."""
        x = self.get_submodule(f"conv{name}")(x)
        if self.config.batch_norm:
            x = self.get_submodule(f"bn{name}")(x)
        return F.relu(x)

    def forward_raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Cell logits and unnormalised descriptors, for training.

        Args:
            image: (B, 1, H, W) grey in [0, 1]; H and W multiples of 8.

        Returns:
            logits (B, 65, Hc, Wc), the last channel "no keypoint"; descriptors (B, D, Hc, Wc).
        """
        x = self.encode(image)
        return self.detect(x), self.describe(x)

    def encode(self, x: Tensor, first: int = 0, depth: int | None = None) -> Tensor:
        """What the encoder's convolutions from `first` to before `depth` make of an image, or of
        what the one before `first` gave: (B, C, H', W')."""
        for name in ENCODER[first:depth]:
            x = self._block(name, x)
            if name in self.pooled:
                x = F.max_pool2d(x, 2)
        return x

    def detect(self, x: Tensor) -> Tensor:
        """The encoder's output -> cell logits (B, 65, Hc, Wc)."""
        logits: Tensor = self.get_submodule("convPb")(self._block("Pa", x))
        return logits

    def describe(self, x: Tensor) -> Tensor:
        """The encoder's output -> raw descriptors (B, D, Hc, Wc)."""
        descriptors: Tensor = self.get_submodule("convDb")(self._block("Da", x))
        return descriptors

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score map and descriptors.

        Args:
            image: (B, 1, H, W) grey in [0, 1]; H and W multiples of 8.

        Returns:
            scores (B, H, W) in [0, 1], before non-maximum suppression; descriptors
            (B, D, Hc, Wc), L2-normalised over D.
        """
        logits, descriptors = self.forward_raw(image)
        return score_map(logits), F.normalize(descriptors, dim=1)


def score_map(logits: Tensor) -> Tensor:
    """Softmax over the 65 channels, dustbin dropped, cells unfolded.

    Args:
        logits: (B, 65, Hc, Wc); channel 8·y + x is pixel (x, y) of the cell.

    Returns:
        (B, H, W) probabilities.
    """
    probabilities = logits.softmax(1)[:, :-1]
    return F.pixel_shuffle(probabilities, CELL).squeeze(1)
