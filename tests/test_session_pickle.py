"""Sessions in other processes: pickle, spawned workers, loaders of PyTorch."""

from __future__ import annotations

import dataclasses
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch.utils.data
from joblib.externals.loky import get_reusable_executor

from featherglue.errors import ArtifactError, UsageError
from featherglue.models.model import Model
from featherglue.session import Session, load
from featherglue.types import Features


def equal(first: Features, second: Features) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("keypoints", "scores", "descriptors")
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threads": 1, "search": "auto"},
        {"max_keypoints": 50, "keypoint_threshold": 0.001, "refine": False},
        {"matcher": "nn"},
        {"features": "sift", "matcher": "nn", "max_keypoints": 100},
        {"runtime": "torch", "threads": 1},
    ],
)
def test_a_session_survives_pickling(
    options: dict[str, object], matching: Path, gray: np.ndarray
) -> None:
    classical = options.get("features") == "sift"
    session = load(**options) if classical else load(matching, **options)
    copy = pickle.loads(pickle.dumps(session))
    assert isinstance(copy, Session)
    assert copy.fingerprint() == session.fingerprint()
    assert copy.processing == session.processing
    assert (copy.threads, copy.search, copy.runtime) == (
        session.threads,
        session.search,
        session.runtime,
    )
    assert equal(copy.extract(gray), session.extract(gray))


def test_changed_settings_survive_pickling(session: Session) -> None:
    changed = session.with_settings(match_threshold=0.5, max_keypoints=7)
    assert pickle.loads(pickle.dumps(changed)).processing == changed.processing


def test_a_shipped_model_is_pickled_by_its_name() -> None:
    assert b"weights/fast" not in pickle.dumps(load("fast", threads=1))


def test_a_model_that_changed_since_is_an_error(
    matching: Path, models: dict[str, Model], tmp_path: Path
) -> None:
    models["bare"].save(tmp_path / "model")
    pickled = pickle.dumps(load(tmp_path / "model", threads=1))
    models["one-head"].save(tmp_path / "model")
    with pytest.raises(ArtifactError, match="other weights"):
        pickle.loads(pickled)


def test_networks_without_an_artifact_cannot_be_pickled(session: Session) -> None:
    bare = Session(session.extractor, session.matcher, session.processing)
    with pytest.raises(UsageError, match="made by load"):
        pickle.dumps(bare)


@pytest.mark.slow
def test_a_spawned_process_takes_a_session(session: Session, gray: np.ndarray) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(session.extract, gray).result()
    assert equal(there, session.extract(gray))


@dataclasses.dataclass
class _Keypoints(torch.utils.data.Dataset[np.ndarray]):
    session: Session
    images: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.session.extract(self.images[index]).keypoints


@pytest.mark.slow
def test_a_loader_of_pytorch_takes_a_session(session: Session, gray: np.ndarray) -> None:
    images = [gray, gray[::-1].copy()]
    loader = torch.utils.data.DataLoader(
        _Keypoints(session, images),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    for found, image in zip(loader, images, strict=True):
        assert np.array_equal(found, session.extract(image).keypoints)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib_takes_a_session(backend: str, session: Session, gray: np.ndarray) -> None:
    images = [gray, gray[::-1].copy(), gray[:, ::-1].copy()]
    try:
        found = joblib.Parallel(n_jobs=2, backend=backend, timeout=200)(
            joblib.delayed(session.extract)(image) for image in images
        )
    finally:
        if backend == "loky":  # its processes wait for more work
            get_reusable_executor().shutdown(wait=True, kill_workers=True)
    for there, image in zip(found, images, strict=True):
        assert equal(there, session.extract(image))
