"""Helpers of the tests of batched training data."""

from __future__ import annotations

import torch
from torch import Tensor

from featherglue.train.batched.atlas import Atlas, Textures
from featherglue.train.batched.draws import Draws
from featherglue.train.engine.loader import Batches

SIZE = (96, 64)


def draws(index: int = 0) -> Draws:
    return Draws(5, index, torch.device("cpu"))


def whole(atlas: Atlas, photo: Tensor, mirrored: Tensor) -> Textures:
    width, height = atlas.sizes[photo].unbind(-1)
    zero = torch.zeros_like(width)
    return Textures(photo, mirrored, zero, zero, width, height, zero)


def assert_depends_only_on_seed_and_index(source: Batches) -> None:
    first, again, other = source.batch(8, 4), source.batch(8, 4), source.batch(12, 4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["image0"], other["image0"])
