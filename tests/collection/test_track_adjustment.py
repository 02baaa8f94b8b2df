"""The track adjustment recovers displacements from noisy and wrong alignments."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.collection.track_adjustment import AdjustmentConfig, Equations, adjust_tracks

NUM_IMAGES, NUM_TRACKS = 6, 80


def simulate(noise: float = 0.0, wrong: float = 0.0, seed: int = 0) -> tuple[Equations, np.ndarray]:
    """All matches of tracks through every image, and the true displacements (K, 2).

    Track t of image i is keypoint i·T + t. The frame of image i is a linear map of that of the
    scene, as a view of a plane.
    """
    rng = np.random.default_rng(seed)
    views = np.eye(2) + rng.normal(0, 0.2, (NUM_IMAGES, NUM_TRACKS, 2, 2))
    true = rng.normal(0, 0.8, (NUM_IMAGES, NUM_TRACKS, 2))
    parts = []
    for a in range(NUM_IMAGES):
        for b in range(a + 1, NUM_IMAGES):
            affine = views[b] @ np.linalg.inv(views[a])
            offsets = true[b] - np.einsum("tij,tj->ti", affine, true[a])
            offsets += rng.normal(0, noise, offsets.shape)
            bad = rng.random(NUM_TRACKS) < wrong
            offsets[bad] += rng.choice((-1, 1), (bad.sum(), 2)) * rng.uniform(3, 6, (bad.sum(), 2))
            row = np.concatenate(
                [affine.reshape(-1, 4), offsets, np.tile([40.0, 40.0, 0.0], (NUM_TRACKS, 1))], 1
            )
            numbers = np.arange(NUM_TRACKS)
            parts.append((a * NUM_TRACKS + numbers, b * NUM_TRACKS + numbers, row))
    return Equations.of(parts), true.reshape(-1, 2)


def consistency(equations: Equations, displacements: np.ndarray, true: np.ndarray) -> np.ndarray:
    """px, how far the corrected keypoints of each match are from corresponding points.

    A track may move as a whole: only the difference within matches counts.
    """
    error = displacements - true
    moved = np.einsum("eij,ej->ei", equations.affine, error[equations.first])
    return np.asarray(np.linalg.norm(error[equations.second] - moved, axis=1))


def test_exact_alignments_are_met() -> None:
    equations, true = simulate()
    adjusted = adjust_tracks(equations, len(true), AdjustmentConfig(prior=10.0))
    assert np.percentile(consistency(equations, adjusted.displacements, true), 95) < 0.02
    assert np.percentile(adjusted.residuals, 95) < 0.02
    assert not adjusted.rejected.any()


def test_noise_averages_over_a_track() -> None:
    equations, true = simulate(noise=0.2)
    errors = consistency(equations, adjust_tracks(equations, len(true)).displacements, true)
    single = np.median(np.linalg.norm(np.random.default_rng(1).normal(0, 0.2, (9999, 2)), axis=1))
    assert np.median(errors) < 0.75 * single


def test_wrong_matches_are_rejected_and_do_no_harm() -> None:
    clean, true = simulate(noise=0.05)
    equations, _ = simulate(noise=0.05, wrong=0.15)
    adjusted = adjust_tracks(equations, len(true))
    shift = np.linalg.norm(equations.offsets - clean.offsets, axis=1)
    wrong = shift > 2
    assert wrong.mean() == pytest.approx(0.15, abs=0.03)
    assert adjusted.rejected[wrong].mean() > 0.97
    assert adjusted.rejected[~wrong].mean() < 0.01
    errors = consistency(equations, adjusted.displacements, true)
    assert np.median(errors[~wrong]) < 0.1


def test_the_information_decides_between_contradicting_matches() -> None:
    row = np.array([1.0, 0, 0, 1, 0, 0, 0, 0, 0])
    offsets = {(0, 1): (1.0, 400.0), (1, 2): (0.0, 400.0), (0, 2): (0.6, 4.0)}
    parts = []
    for (first, second), (offset, information) in offsets.items():
        part = row.copy()
        part[4], part[6:8] = offset, information
        parts.append((np.array([first]), np.array([second]), part[None]))
    adjusted = adjust_tracks(Equations.of(parts), 3, AdjustmentConfig(prior=10.0))
    d = adjusted.displacements[:, 0]
    assert d[2] - d[0] == pytest.approx(1.0, abs=0.02)


def test_matches_without_alignment_are_left_out() -> None:
    rows = np.full((2, 9), np.nan)
    rows[0] = (1, 0, 0, 1, 0.5, 0, 40, 40, 0)
    numbers = np.array([0, 1])
    equations = Equations.of([(numbers, numbers + 2, rows)])
    assert equations.first.tolist() == [0]
    adjusted = adjust_tracks(equations, 5)
    assert (adjusted.displacements[[1, 3, 4]] == 0).all()
    assert adjusted.displacements[2, 0] - adjusted.displacements[0, 0] == pytest.approx(
        0.5, abs=0.02
    )


def test_no_matches() -> None:
    adjusted = adjust_tracks(Equations.of([]), 3)
    assert adjusted.displacements.tolist() == [[0, 0]] * 3
    assert len(adjusted.residuals) == 0
