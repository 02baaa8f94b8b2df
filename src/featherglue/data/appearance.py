"""Augmentation with strong changes of illumination, season, time of day and weather, seeded.

`photometric` covers the changes between two images of one camera within minutes. This module covers
the changes between two visits to a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.photometric import Augmentation, Float, augment_photometric
from featherglue.errors import ConfigError
from featherglue.io.gray import Gray

Change = Literal["shading", "illumination", "tones", "night", "fog", "rain", "local_contrast"]
_LEVELS = np.arange(256)
_MAX_FOREGROUND = 0.25  # of the image


def random_field(rng: np.random.Generator, size: tuple[int, int], low: int, high: int) -> Float:
    """Smooth noise of about unit variance.

    Args:
        size: (width, height), pixels.
        low, high: range of the number of grid points along each side; more make finer noise.

    Returns:
        (H, W) float32.
    """
    rows, columns = rng.integers(low, high + 1, 2)
    grid = rng.standard_normal((rows, columns), np.float32)
    return np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC), np.float32)


def tone_curve(rng: np.random.Generator, unusual: float) -> Float:
    """A random tone curve.

    Args:
        unusual: probability of a curve that is inverted, as between visible light and infrared, or
            not monotone.

    Returns:
        (256,) float32 in [0, 255], the new value of each gray level.
    """
    knots = int(rng.integers(4, 9))
    values = np.cumsum(rng.gamma(0.8, 1.0, knots))
    values = (values - values[0]) / (values[-1] - values[0] + 1e-6)
    black, white = rng.uniform(0, 0.35), rng.uniform(0.6, 1.0)
    values = black + (white - black) * values
    kind = rng.random()
    if kind < unusual / 2:
        values = values[::-1]
    elif kind < unusual:
        values = np.clip(values + rng.normal(0, 0.25, knots), 0, 1)
    curve = np.interp(_LEVELS, np.linspace(0, 255, knots), values)
    return np.asarray(255 * curve, np.float32)


def shading(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Directional lighting: add the derivative of the blurred image in a random direction."""
    smooth = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.8, 3)))
    angle, gain = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.6) * strength
    x = np.asarray(cv2.Sobel(smooth, cv2.CV_32F, 1, 0))
    y = np.asarray(cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    lit = image + np.float32(gain * np.cos(angle)) * x + np.float32(gain * np.sin(angle)) * y
    return np.asarray(lit, np.float32)


def illumination(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """A smooth field of gains."""
    field = random_field(rng, (image.shape[1], image.shape[0]), 3, 6)
    gains = np.exp(np.float32(rng.uniform(0.2, 0.6) * strength) * field)
    return np.asarray(image * gains, np.float32)


def tones(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Apply a random tone curve; in 40 % of the images only to a smooth region."""
    levels = np.clip(image, 0, 255).astype(np.uint8)
    changed = tone_curve(rng, min(1.0, 0.15 * strength))[levels]
    if rng.random() < 0.4:
        field = random_field(rng, (image.shape[1], image.shape[0]), 3, 8)
        blend = 1 / (1 + np.exp(-np.float32(rng.uniform(2, 8)) * field))
        changed = blend * changed + (1 - blend) * image
    return np.asarray(changed, np.float32)


def night(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Darkness with blooming lamps and the noise of a long exposure."""
    lamps = np.clip(image - np.float32(rng.uniform(150, 240)), 0, 255)
    bloom = cv2.GaussianBlur(lamps, (0, 0), float(rng.uniform(2, 10)))
    dark = image * np.float32(rng.uniform(0.15, 0.5)) + np.float32(rng.uniform(1, 5)) * bloom
    dark = dark + lamps
    dark = dark + np.float32(rng.uniform(1, 6) * strength) * rng.standard_normal(
        image.shape, np.float32
    )
    return np.asarray(np.clip(dark, 0, 255) * np.float32(rng.uniform(1, 3)), np.float32)


def fog(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """A bright veil of uneven density (Koschmieder's model)."""
    field = random_field(rng, (image.shape[1], image.shape[0]), 2, 5)
    clear = np.clip(1 - strength * rng.uniform(0.3, 0.8) + 0.2 * field, 0.08, 1).astype(np.float32)
    veil = np.float32(rng.uniform(120, 240))
    return np.asarray(image * clear + veil * (1 - clear), np.float32)


def rain(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Bright streaks of one direction, some of them out of focus, and less contrast."""
    height, width = image.shape
    length = max(2, round(float(rng.uniform(0.02, 0.08)) * max(height, width)))
    angle = np.deg2rad(rng.uniform(65, 115))
    step = length * np.array([np.cos(angle), np.sin(angle)])
    drops = np.zeros((height, width), np.float32)
    for _ in range(int(rng.uniform(0.002, 0.006) * strength * height * width / length) + 1):
        start = rng.uniform(-length, (width, height))
        ends = [tuple(int(v) for v in np.rint(point)) for point in (start, start + step)]
        cv2.line(drops, ends[0], ends[1], float(rng.uniform(0.3, 1)), 1, cv2.LINE_AA)
    blurred = cv2.GaussianBlur(drops, (0, 0), float(rng.uniform(0.3, 1.0)))
    veil = np.float32(rng.uniform(0.1, 0.3) * min(strength, 1.5))
    dull = image * (1 - veil) + veil * np.float32(rng.uniform(100, 180))
    return np.asarray(dull + np.float32(rng.uniform(40, 110)) * blurred, np.float32)


def local_contrast(rng: np.random.Generator, image: Float, strength: float) -> Float:
    """Contrast-limited adaptive histogram equalization."""
    tiles = int(rng.integers(2, 9))
    equalizer = cv2.createCLAHE(float(1 + rng.uniform(0, 4) * strength), (tiles, tiles))
    return np.asarray(equalizer.apply(np.clip(image, 0, 255).astype(np.uint8)), np.float32)


# In the order of image formation, each with its probability at strength 1.
AUGMENTATIONS: dict[Change, tuple[Augmentation, float]] = {
    "shading": (shading, 0.15),
    "illumination": (illumination, 0.35),
    "tones": (tones, 0.5),
    "night": (night, 0.12),
    "fog": (fog, 0.1),
    "rain": (rain, 0.05),
    "local_contrast": (local_contrast, 0.1),
}


def check_changes(changes: Sequence[str]) -> None:
    """Raise ConfigError unless `changes` are names of changes, each given once."""
    unknown = sorted(set(changes) - set(get_args(Change)))
    if unknown or len(set(changes)) < len(changes):
        raise ConfigError(
            f"changes must be different ones of {', '.join(get_args(Change))}, not {list(changes)}"
        )


def augment_appearance(
    rng: np.random.Generator,
    image: Gray,
    strength: float = 1.0,
    changes: Sequence[Change] = tuple(AUGMENTATIONS),
) -> Gray:
    """Apply a random subset of `AUGMENTATIONS`, then `augment_photometric`.

    Args:
        rng: source of all random numbers.
        image: (H, W) uint8.
        strength: scales the probabilities and the size of each change; 0 returns the image itself.
        changes: names of the changes to draw from.

    Returns:
        (H, W) uint8.
    """
    if strength <= 0:
        return image
    changed = image.astype(np.float32)
    for name, (augmentation, probability) in AUGMENTATIONS.items():
        if name in changes and rng.random() < probability * strength:
            changed = np.clip(augmentation(rng, changed, strength), 0, 255)
    return augment_photometric(rng, changed.astype(np.uint8), strength * rng.uniform(0.5, 1.4))


def add_foreground(rng: np.random.Generator, image: Gray) -> tuple[Gray, NDArray[np.bool_]]:
    """Cover a part of an image by an object that only this view has.

    The object is a smooth region of at most a quarter of the image. Its texture is another part of
    the image, mirrored, turned upside down or both, with a tone curve of its own.

    Args:
        image: (H, W) uint8.

    Returns:
        The image (H, W) uint8, and which of its pixels are covered (H, W).
    """
    height, width = image.shape
    field = random_field(rng, (width, height), 3, 7)
    level = np.quantile(field, 1 - rng.uniform(0.05, _MAX_FOREGROUND))
    covered = np.asarray(field > level)
    texture = cv2.flip(image, int(rng.integers(-1, 2)))
    texture = np.roll(texture, rng.integers(0, (height, width)), (0, 1))
    texture = tone_curve(rng, 0.2)[texture].astype(np.uint8)
    return np.where(covered, texture, image), covered
