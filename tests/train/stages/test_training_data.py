"""Photographs and samples of the stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherglue.data.photographs import PhotoFolder
from featherglue.train.batched.atlas import Atlas
from featherglue.train.stages import training_data
from featherglue.train.stages.training_data import photographs_on_device


def test_photographs_are_stored_on_a_gpu_with_enough_memory(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = PhotoFolder(images)
    assert photographs_on_device(photos, "cpu") is None
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(training_data, "Atlas", _Recorded)
    wanted = Atlas.bytes_of(photos)
    assert wanted > len(photos) * photos.longest**2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * wanted + 1, 0))
    made = photographs_on_device(photos, "cuda")
    assert isinstance(made, _Recorded) and made.device == "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * wanted - 1, 0))
    with pytest.warns(UserWarning, match="worker processes make the training data"):
        assert photographs_on_device(photos, "cuda") is None


class _Recorded(Atlas):
    def __init__(self, photos: PhotoFolder, device: str) -> None:
        self.device = device
