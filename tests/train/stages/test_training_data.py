"""Photographs and samples of the stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherglue.data.photographs import PhotoFolder
from featherglue.data.real_pairs import RealPairConfig
from featherglue.train.batched.atlas import Atlas
from featherglue.train.stages import training_data
from featherglue.train.stages.training_data import pair_fingerprint, photographs_on_device


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


def test_fingerprint_of_models_beside_their_undistorted_photographs(tmp_path: Path) -> None:
    model = tmp_path / "church" / "sparse"
    model.mkdir(parents=True)
    (tmp_path / "church" / "images").mkdir()  # as COLMAP's image_undistorter writes it
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        (model / name).write_bytes(name.encode())
    pairs = RealPairConfig(models=str(tmp_path))
    first = pair_fingerprint(pairs)
    assert pair_fingerprint(pairs) == first
    (model / "images.bin").write_bytes(b"another model")
    assert pair_fingerprint(pairs) != first
