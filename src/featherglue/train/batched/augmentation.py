"""Photometric augmentation of batches of images, as in `data.photometric`.

Shape legend: n images, H×W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from featherglue.data import photometric
from featherglue.train.batched.draws import Draws

Change = Callable[[Draws, Tensor, float], Tensor]
"""(draws, images (n, H, W) float32 in [0, 255], strength) -> images of the same shape."""
_BLOCK = 8
# JPEG luminance quantization at quality 50 (ITU-T T.81, annex K).
_QUANTIZATION = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def shadow(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Darker or lighter polygons with soft edges."""
    count, height, width = images.shape
    rows, columns = height // 4 + 1, width // 4 + 1
    x = draws.uniform(-0.3, 1.3, count, 5) * columns
    y = draws.uniform(-0.3, 1.3, count, 5) * rows
    # Polygons of three to five corners: the last ones coincide.
    last = draws.integers(2, 5, count, 1)
    order = torch.arange(5, device=images.device).expand(count, 5).minimum(last)
    mask = _polygons(x.gather(1, order), y.gather(1, order), rows, columns)
    mask = _gaussian(mask, draws.uniform(0.3, 6, count), 6.0)
    mask = F.interpolate(mask[:, None], (height, width), mode="bilinear")[:, 0]
    change = draws.uniform(-0.6, 0.35, count, 1, 1) * min(strength, 1.4)
    return images * (1 + mask * change)


def _polygons(x: Tensor, y: Tensor, rows: int, columns: int) -> Tensor:
    """Masks (n, rows, columns) of polygons with corners (n, C): 1 inside, else 0."""
    across = torch.arange(columns, device=x.device, dtype=torch.float32)
    down = torch.arange(rows, device=x.device, dtype=torch.float32)[:, None]
    inside = torch.zeros(len(x), rows, columns, dtype=torch.bool, device=x.device)
    for i in range(x.shape[1]):
        x0, y0, x1, y1 = (p[:, j, None, None] for j in (i - 1, i) for p in (x, y))
        between = (y0 > down) != (y1 > down)
        slope = torch.where(y1 == y0, 0.0, (x1 - x0) / torch.where(y1 == y0, 1.0, y1 - y0))
        inside ^= between & (across < x0 + (down - y0) * slope)
    return inside.float()


def vignette(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Darkening away from random centers."""
    count, height, width = images.shape
    center = draws.uniform(0.25, 0.75, 2, count, 1, 1)
    x = torch.arange(width, device=images.device) / width - center[0]
    y = torch.arange(height, device=images.device)[:, None] / height - center[1]
    falloff = draws.uniform(0, 0.9, count, 1, 1) * min(strength, 1.4)
    return images * (1 - falloff * (x**2 + y**2)).clamp_min(0.15)


def defocus(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Gaussian blur."""
    return _gaussian(images, draws.uniform(0.3, 1.5, len(images)) * strength, 1.5 * strength)


def _gaussian(images: Tensor, sigma: Tensor, max_sigma: float) -> Tensor:
    """Blur each image (n, H, W) with its own sigma (n,) of at most `max_sigma`."""
    reach = max(1, math.ceil(3 * max_sigma))
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    for shape, sides in (((-1, 1, 1, 2 * reach + 1), (reach, reach, 0, 0)),
                         ((-1, 1, 2 * reach + 1, 1), (0, 0, reach, reach))):  # fmt: skip
        padded = F.pad(images[None], sides, mode="replicate")
        images = F.conv2d(padded, kernel.reshape(shape), groups=len(images))[0]
    return images


def motion(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Blur along random directions."""
    count = len(images)
    middle = (draws.uniform(1.5, 4.5, count, 1, 1) * strength).floor().clamp_min(1)
    reach = max(1, math.floor(4.5 * strength))
    angle = draws.uniform(0, math.pi, count, 1, 1)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    along = offsets * angle.cos() + offsets[:, None] * angle.sin()
    beside = offsets[:, None] * angle.cos() - offsets * angle.sin()
    kernel = (1 - beside.abs()).clamp_min(0) * (middle + 0.5 - along.abs()).clamp(0, 1)
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    padded = F.pad(images[None], (reach,) * 4, mode="replicate")
    return F.conv2d(padded, kernel[:, None], groups=count)[0]


def resolution(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Shrink and grow again."""
    height, width = images.shape[1:]
    changed = []
    for image, factor in zip(
        images, draws.uniform_on_cpu(1.0, 1 + strength, len(images)), strict=True
    ):
        small = (max(8, int(height / factor)), max(8, int(width / factor)))
        shrunk = F.interpolate(image[None, None], small, mode="bilinear", antialias=True)
        changed.append(F.interpolate(shrunk, (height, width), mode="bilinear")[0, 0])
    return torch.stack(changed)


def exposure(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Gain and offset."""
    gain = (draws.uniform(-0.5, 0.5, len(images), 1, 1) * strength).exp()
    return images * gain + draws.uniform(-25, 25, len(images), 1, 1) * strength


def contrast(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Contrast about the mean."""
    mean = images.mean((1, 2), keepdim=True)
    factor = (draws.uniform(-0.6, 0.4, len(images), 1, 1) * strength).exp()
    return (images - mean) * factor + mean


def gamma(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Gamma curves."""
    exponent = (draws.uniform(-0.6, 0.6, len(images), 1, 1) * strength).exp()
    return 255 * (images.clamp(0, 255) / 255) ** exponent


def noise(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """Gaussian noise."""
    sigma = draws.uniform(1, 10, len(images), 1, 1) * strength
    return images + sigma * draws.normal(*images.shape)


def jpeg(draws: Draws, images: Tensor, strength: float) -> Tensor:
    """JPEG artifacts: quantize the cosine coefficients of 8×8 blocks with a random quality.

    The sides of the images must be multiples of 8.
    """
    count, height, width = images.shape
    quality = (95 - draws.uniform(0, 55, count, 1, 1) * strength).clamp(10, 95)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    table = torch.tensor(_QUANTIZATION, device=images.device, dtype=torch.float32)
    steps = (table * scale).round().clamp(1, 255)[:, None, None]
    cosine = _cosines(images.device)
    blocks = images.clamp(0, 255).round() - 128
    blocks = blocks.reshape(count, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    blocks = blocks.transpose(2, 3)
    coefficients = cosine @ blocks @ cosine.T
    blocks = cosine.T @ ((coefficients / steps).round() * steps) @ cosine
    return (blocks.transpose(2, 3).reshape(count, height, width) + 128).clamp(0, 255)


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal cosine transform (8, 8) of JPEG; row k has frequency k."""
    k = torch.arange(_BLOCK, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi * (2 * k + 1) * k[:, None] / (2 * _BLOCK)) / 2
    basis[0] /= math.sqrt(2)
    return basis


_CHANGES: tuple[Change, ...] = (
    shadow, vignette, defocus, motion, resolution, exposure, contrast, gamma, noise, jpeg
)  # fmt: skip
# Each change with its probability, in the order of `data.photometric`.
CHANGES: tuple[tuple[Change, float], ...] = tuple(
    ({change.__name__: change for change in _CHANGES}[single.__name__], probability)
    for single, probability in photometric.AUGMENTATIONS
)


def augment_images(draws: Draws, images: Tensor, strength: float = 1.0) -> Tensor:
    """Change exposure, contrast, gamma, shadows, vignette, blur, resolution, noise and JPEG.

    Args:
        images: (n, H, W) float32 in [0, 255], sides multiples of 8.
        strength: 0 changes nothing; 1 is typical of hand-held cameras; 2 is strong.

    Returns:
        (n, H, W) uint8.
    """
    if strength > 0:
        images = images.clone()
        for change, probability in CHANGES:
            chosen = draws.random_indices(probability, len(images))
            if len(chosen):
                images[chosen] = change(draws, images[chosen], strength)
    return (images + 0.5).clamp(0, 255).to(torch.uint8)


def augment_views(draws: Draws, images: Tensor, strength: float) -> dict[str, Tensor]:
    """Augment both views of B pairs independently of each other.

    Args:
        images: (2, B, H, W) float32 in [0, 255], sides multiples of 8.
        strength: see `augment_images`.

    Returns:
        image0, image1 (B, 1, H, W) uint8.
    """
    image0, image1 = augment_images(draws, images.flatten(0, 1), strength)[:, None].chunk(2)
    return {"image0": image0, "image1": image1}
