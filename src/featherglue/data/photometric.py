"""Photometric augmentation of gray images: light, lens, sensor and compression, seeded."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ConfigError
from featherglue.io.gray import Gray

Float = NDArray[np.float32]
Augmentation = Callable[[np.random.Generator, Float, float], Float]
"""(rng, image (H, W) float32 in [0, 255], strength) -> image of the same shape."""


def exposure(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Random gain and offset."""
    gain = np.exp(rng.uniform(-0.5, 0.5) * strength)
    return np.asarray(image * np.float32(gain) + np.float32(rng.uniform(-25, 25) * strength))


def contrast(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Random contrast about the mean gray level."""
    mean = image.mean()
    factor = np.float32(np.exp(rng.uniform(-0.6, 0.4) * strength))
    return np.asarray((image - mean) * factor + mean)


def gamma(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Random gamma, by table lookup: the image is rounded to 8 bits."""
    exponent = np.exp(rng.uniform(-0.6, 0.6) * strength)
    table = (255 * (np.arange(256) / 255) ** exponent).astype(np.float32)
    return np.asarray(table[np.clip(image, 0, 255).astype(np.uint8)])


def shadow(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """A random polygon with soft edges, darker or lighter than the rest."""
    height, width = image.shape
    mask = np.zeros((height // 4 + 1, width // 4 + 1), np.float32)
    corners = rng.uniform(-0.3, 1.3, (rng.integers(3, 6), 2)) * mask.shape[::-1]
    cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.3, 6)))
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    change = np.float32(rng.uniform(-0.6, 0.35) * min(strength, 1.4))
    return np.asarray(image * (1 + mask * change), np.float32)


def vignette(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Quadratic darkening away from a random center."""
    height, width = image.shape
    cx, cy = rng.uniform(0.25, 0.75, 2) * (width, height)
    x = ((np.arange(width, dtype=np.float32) - cx) / width) ** 2
    y = ((np.arange(height, dtype=np.float32) - cy) / height) ** 2
    falloff = np.float32(rng.uniform(0, 0.9) * min(strength, 1.4))
    light = np.maximum(0.15, 1 - falloff * (y[:, None] + x[None, :]))
    return np.asarray(image * light, np.float32)


def defocus(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Gaussian blur."""
    sigma = float(rng.uniform(0.3, 1.5) * strength)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def motion(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Linear motion blur in a random direction."""
    length = 2 * max(1, int(rng.uniform(1.5, 4.5) * strength)) + 1  # odd, so nothing moves
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    angle = rng.uniform(0, np.pi)
    dx, dy = middle * np.cos(angle), middle * np.sin(angle)
    start = (round(middle - dx), round(middle - dy))
    cv2.line(kernel, start, (round(middle + dx), round(middle + dy)), 1.0, 1, cv2.LINE_AA)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)


def noise(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Gaussian noise."""
    sigma = np.float32(rng.uniform(1, 10) * strength)
    return image + sigma * rng.standard_normal(image.shape, np.float32)


def resolution(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Downsampling, then upsampling to the original size."""
    height, width = image.shape
    factor = 1 / rng.uniform(1.0, 1 + strength)
    small = (max(8, int(width * factor)), max(8, int(height * factor)))
    image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def jpeg(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """JPEG compression."""
    quality = int(np.clip(95 - rng.uniform(0, 55) * strength, 10, 95))
    clipped = np.clip(image, 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", clipped, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.float32)


# In the order of image formation (light, lens, sensor, file), each with its probability.
AUGMENTATIONS: tuple[tuple[Augmentation, float], ...] = (
    (shadow, 0.3),
    (vignette, 0.2),
    (defocus, 0.25),
    (motion, 0.15),
    (resolution, 0.15),
    (exposure, 0.6),
    (contrast, 0.5),
    (gamma, 0.5),
    (noise, 0.5),
    (jpeg, 0.3),
)


def check_strength(strength: float) -> None:
    """Raise ConfigError unless `strength`, the key `photometric_strength`, is at least 0."""
    if not strength >= 0:
        raise ConfigError(f"photometric_strength must be at least 0, not {strength}")


def augment_photometric(rng: np.random.Generator, image: Gray, strength: float = 1.0) -> Gray:
    """Apply a random subset of `AUGMENTATIONS`.

    Args:
        rng: source of all random numbers.
        image: (H, W) uint8.
        strength: 0 returns the image itself; 1 is typical of hand-held cameras; 2 is severe.

    Returns:
        (H, W) uint8.
    """
    if strength <= 0:
        return image
    augmented = image.astype(np.float32)
    for augmentation, probability in AUGMENTATIONS:
        if rng.random() < probability:
            augmented = augmentation(rng, augmented, strength)
    rounded: Gray = np.clip(augmented + 0.5, 0, 255).astype(np.uint8)
    return rounded
