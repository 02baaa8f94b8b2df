"""Damaged image files are read or refused; see `mutators/image_files.py`."""

from __future__ import annotations

import pytest
from mutators.image_files import IMAGES, SEEDS
from mutators.mutator import property_test

test_damaged_images = property_test(IMAGES)


@pytest.mark.parametrize("name", SEEDS)
def test_every_format_can_be_made(name: str) -> None:
    assert len(SEEDS[name]()) > 100
