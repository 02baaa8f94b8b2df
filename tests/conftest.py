"""Tiny seeded models, their artifacts, and real photographs from scikit-image."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Set before NumPy is imported: test processes side by side must not wait for each other's threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A process of pytest-xdist has it. It would fix the width of the consoles when they are made, and
# tests set it later.
os.environ.pop("COLUMNS", None)

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from scenes import Array, texture

from featherglue.config import (
    ArchitectureConfig,
    AttentionConfig,
    Provenance,
    SuperGlueConfig,
    SuperPointConfig,
)
from featherglue.io.gray import to_gray
from featherglue.models.model import Model
from featherglue.session import Session, load

POINT = SuperPointConfig(
    channels=(4, 4, 8, 8, 8, 8, 16, 16),
    detector_channels=16,
    descriptor_channels=16,
    descriptor_dim=16,
)


def _normed(config: SuperPointConfig) -> SuperPointConfig:
    return SuperPointConfig(
        channels=config.channels,
        detector_channels=config.detector_channels,
        descriptor_channels=config.descriptor_channels,
        descriptor_dim=config.descriptor_dim,
        batch_norm=True,
    )


def _glue(
    heads: int, head_dim: int, *, width: int = 16, batch_norm: bool = True, hidden: int = 32
) -> SuperGlueConfig:
    return SuperGlueConfig(
        descriptor_dim=16,
        width=width,
        keypoint_encoder=(8, 16),
        layers=(
            AttentionConfig(kind="self", heads=heads, head_dim=head_dim, hidden=hidden),
            AttentionConfig(kind="cross", heads=heads, head_dim=head_dim, hidden=hidden),
        ),
        batch_norm=batch_norm,
    )


ARCHITECTURES = {
    "one-head": ArchitectureConfig(extractor=POINT, matcher=_glue(1, 16, batch_norm=False)),
    "four-heads": ArchitectureConfig(extractor=_normed(POINT), matcher=_glue(4, 4)),
    # All widths differ.
    "projected": ArchitectureConfig(
        extractor=_normed(POINT), matcher=_glue(2, 5, width=12, hidden=20)
    ),
    "half-stem": ArchitectureConfig(
        extractor=replace(_normed(POINT), stem=2), matcher=_glue(1, 8, batch_norm=False)
    ),
    "context": ArchitectureConfig(
        extractor=replace(_normed(POINT), context_channels=(12, 10, 20, 18)),
        matcher=_glue(2, 8, batch_norm=False),
    ),
    "bare": ArchitectureConfig(
        extractor=POINT,
        matcher=SuperGlueConfig(descriptor_dim=16, width=16, keypoint_encoder=(), layers=()),
    ),
}


def _randomize(network: torch.nn.Module, seed: int) -> None:
    """Set random weights and statistics for which every layer affects the outputs."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                deviation = (2 / module.weight[0].numel()) ** 0.5
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(noise * deviation)
                uniform(module.bias, -0.1, 0.1)
            elif isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.3, 0.3)
                uniform(module.running_mean, -0.3, 0.3)
                uniform(module.running_var, 0.5, 2.0)
    network.eval()


def _build(architecture: ArchitectureConfig, seed: int = 0) -> Model:
    model = Model.build(architecture)
    for i, network in enumerate(model.networks().values()):
        _randomize(network, seed + i)
    if model.extractor is not None:
        with torch.no_grad():
            model.extractor.get_submodule("convPb").weight.mul_(4)
    if model.matcher is not None:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            sides = [
                (
                    torch.rand(1, 30, 2, generator=generator) - 0.5,
                    torch.rand(1, 30, generator=generator),
                    torch.randn(1, 30, model.matcher.config.descriptor_dim, generator=generator)
                    / 4,
                )
                for _ in range(2)
            ]
            factor = (3 / model.matcher(*sides[0], *sides[1]).std()) ** 0.5
            model.matcher.final_proj.weight.mul_(factor)
            model.matcher.final_proj.bias.mul_(factor)
            model.matcher.bin_score.fill_(0.7)
    return model


# Folders whose tests train, compress, start processes or encode videos: all of them count as slow.
SLOW_FOLDERS = {
    "benchmarking",
    "benchmarks",
    "cli",
    "collection",
    "compression",
    "docs",
    "evaluation",
    "models",
    "robustness",
    "runtime",
    "sensitivity",
    "studies",
    "train",
    "video",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the slow folders, so that `make quick` leaves them out."""
    root = Path(__file__).parent
    for item in items:
        if item.path.relative_to(root).parts[0] in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use one thread, and a temporary cache."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATHERGLUE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("FEATHERGLUE_DEBUG", raising=False)
        yield


@pytest.fixture(scope="session")
def build() -> Callable[..., Model]:
    """build(architecture, seed): a model with random weights."""
    return _build


@pytest.fixture(scope="session")
def randomize() -> Callable[[torch.nn.Module, int], None]:
    """randomize(network, seed): set random weights and statistics, in evaluation mode."""
    return _randomize


@pytest.fixture(scope="session")
def architectures() -> dict[str, ArchitectureConfig]:
    return ARCHITECTURES


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    """A tiny model of each architecture. Tests must not change them."""
    return {name: _build(config) for name, config in ARCHITECTURES.items()}


@pytest.fixture(autouse=True)
def _models_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that changes `models`, not a later one that happens to use them."""
    if "models" not in request.fixturenames:
        yield
        return
    models = request.getfixturevalue("models")
    before = {name: _weights(model) for name, model in models.items()}
    yield
    changed = [name for name, model in models.items() if _weights(model) != before[name]]
    assert not changed, f"the test changed the shared models {changed}"


def _weights(model: Model) -> list[bytes]:
    return [
        tensor.numpy(force=True).tobytes()
        for network in model.networks().values()
        for tensor in network.state_dict().values()
    ]


@pytest.fixture(scope="session")
def folders(models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The artifacts of `models`. Tests must not change them."""
    root = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save(root / name)
    return {name: root / name for name in models}


@pytest.fixture(scope="session")
def matching(gray: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that matches correctly: its random descriptors are whitened for this photograph."""
    torch.manual_seed(0)
    architecture = ArchitectureConfig(extractor=POINT, matcher=_glue(2, 8, batch_norm=False))
    model = _build(architecture, seed=5)
    extractor, matcher = model.extractor, model.matcher
    assert extractor is not None and matcher is not None
    with torch.no_grad():
        image = torch.from_numpy(gray)[None, None].float() / 255
        dense = extractor.forward_raw(image)[1][0].flatten(1).double()
        values, vectors = torch.linalg.eigh(torch.cov(dense))
        whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        last = extractor.get_submodule("convDb")
        last.weight.copy_(torch.einsum("oi,ixyz->oxyz", whiten, last.weight.double()))
        last.bias.copy_(whiten @ (last.bias.double() - dense.mean(1)))
        for mlp in (matcher.kenc.encoder, *(layer.mlp for layer in matcher.gnn.layers)):
            mlp[-1].weight.mul_(0.01)
            mlp[-1].bias.zero_()
        matcher.final_proj.weight.copy_(torch.eye(16) * 9)
        matcher.final_proj.bias.zero_()
        matcher.bin_score.fill_(14.0)
    provenance = Provenance(
        recipe=({"step": "test", "seed": 5},), data="random numbers", license="Apache-2.0"
    )
    folder = tmp_path_factory.mktemp("matching") / "model"
    Model(
        extractor=extractor, matcher=matcher, processing=model.processing, provenance=provenance
    ).save(folder)
    return folder


@pytest.fixture(scope="session")
def session(matching: Path) -> Session:
    """A session of `matching` with its default settings, without search and guided matching."""
    return load(matching, threads=1, search="off", guided_matching=False)


@pytest.fixture(scope="session")
def gray() -> np.ndarray:
    """A photograph, (256, 320) gray uint8."""
    return np.ascontiguousarray(cv2.resize(to_gray(skimage.data.camera()), (320, 320))[:256])


@pytest.fixture(scope="session")
def color() -> np.ndarray:
    """A photograph, (200, 300, 3) RGB uint8."""
    return cv2.resize(skimage.data.coffee(), (300, 200), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def photographs() -> dict[str, np.ndarray]:
    """Photographs at full size, gray."""
    return {
        "camera": to_gray(skimage.data.camera()),
        "astronaut": to_gray(skimage.data.astronaut()),
        "coffee": to_gray(skimage.data.coffee()),
    }


@pytest.fixture
def shifted(gray: np.ndarray, tmp_path: Path) -> tuple[Path, Path]:
    """Two crops of one photograph as files; the second one starts 24 px right, 16 px below."""
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    cv2.imwrite(str(first), gray[:224, :288])
    cv2.imwrite(str(second), gray[16:240, 24:312])
    return first, second


@pytest.fixture(scope="session")
def shift_and_turn() -> Array:
    """A mild homography for images of 160×120."""
    return np.array([[0.98, -0.08, 9.0], [0.07, 1.01, -5.0], [1e-4, -5e-5, 1.0]])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three textured images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        cv2.imwrite(str(folder / name), texture(i))
    return folder


@pytest.fixture
def write_list(photos: Path) -> Callable[[Array], Path]:
    """Writes a list of homographies in which all photos have the same one."""

    def write(H: Array) -> Path:
        numbers = " ".join(f"{value:.12g}" for value in H.ravel())
        path = photos / "list.txt"
        path.write_text("".join(f"{name}.png {numbers}\n" for name in "abc"))
        return path

    return write
