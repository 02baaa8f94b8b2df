"""Optimal transport against the log domain; mutual matches and neighbors against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featherglue.matching import assignment
from featherglue.matching.assignment import mutual_matches, nearest_neighbors, optimal_transport
from featherglue.models.sinkhorn import log_optimal_transport


def log_domain(scores: np.ndarray, bin_score: float, iterations: int) -> np.ndarray:
    """The reference, in double precision."""
    tensor = torch.from_numpy(scores).double()[None]
    result = log_optimal_transport(tensor, torch.tensor(bin_score), iterations)
    return result[0].exp().numpy()


SHAPES = [(40, 40), (1, 30), (30, 1), (1, 1), (17, 60)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("iterations", [1, 2, 5, 20, 100])
@pytest.mark.parametrize("scale", [1, 3, 10, 30, 100])
def test_exponential_domain_equals_the_log_domain(
    scale: int, iterations: int, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(scale * 1000 + iterations)
    scores = (rng.standard_normal(shape) * scale).astype(np.float32)
    bin_score = np.float32(rng.uniform(-scale, scale))
    ours = optimal_transport(scores, float(bin_score), iterations)
    assert ours.dtype == np.float32
    assert ours.shape == (shape[0] + 1, shape[1] + 1)
    expected = log_domain(scores, float(bin_score), iterations)
    # The dustbins' common corner holds up to min(N0, N1); other entries lie in [0, 1].
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("offset", [-500.0, 500.0])
def test_scores_far_from_the_dustbin(offset: float) -> None:
    scores = (np.random.default_rng(0).standard_normal((20, 30)) + offset).astype(np.float32)
    np.testing.assert_allclose(
        optimal_transport(scores, 0.0, 50), log_domain(scores, 0.0, 50), atol=1e-3
    )


def test_a_strong_diagonal_is_found_at_scores_of_trained_networks() -> None:
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((300, 280)).astype(np.float32) * 5 - 20
    scores[np.arange(280), np.arange(280)] += 45
    ours = optimal_transport(scores, 1.0, 20)
    np.testing.assert_allclose(ours, log_domain(scores, 1.0, 20), atol=1e-4)
    indices, confidence = mutual_matches(ours, 0.5)
    np.testing.assert_array_equal(indices[:, 0], indices[:, 1])
    assert len(indices) == 280
    assert confidence.min() > 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_marginals(shape: tuple[int, int]) -> None:
    scores = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    once = optimal_transport(scores, 0.3, 1)
    np.testing.assert_allclose(once.sum(0)[:-1], 1, rtol=1e-5)
    np.testing.assert_allclose(once.sum(0)[-1], shape[0], rtol=1e-5)
    converged = optimal_transport(scores, 0.3, 200)
    np.testing.assert_allclose(converged.sum(1)[:-1], 1, rtol=1e-4)
    np.testing.assert_allclose(converged.sum(1)[-1], shape[1], rtol=1e-4)


def test_a_higher_dustbin_takes_more() -> None:
    scores = np.random.default_rng(2).standard_normal((20, 20)).astype(np.float32)
    shares = [optimal_transport(scores, bin_score, 50)[:-1, -1].sum() for bin_score in (-4, 0, 4)]
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize("shape", [(30, 30), (1, 8), (8, 1), (25, 12)])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6])
def test_mutual_matches_by_brute_force(threshold: float, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    assignment = rng.random((shape[0] + 1, shape[1] + 1)).astype(np.float32)
    inner = assignment[:-1, :-1]
    expected = [
        (i, j)
        for i in range(shape[0])
        for j in range(shape[1])
        if inner[i, j] == inner[i].max() == inner[:, j].max() and inner[i, j] > threshold
    ]
    assignment[-1], assignment[:, -1] = 5, 5  # the dustbins are ignored
    indices, scores = mutual_matches(assignment, threshold)
    assert indices.dtype == np.int64
    assert indices.tolist() == [list(pair) for pair in expected]
    np.testing.assert_array_equal(scores, inner[tuple(indices.T)])
    assert len(expected) > 0


def test_the_threshold_is_exclusive() -> None:
    assignment = np.array([[0.2, 0], [0, 0]], np.float32)
    assert len(mutual_matches(assignment, float(np.float32(0.2)))[0]) == 0
    assert len(mutual_matches(assignment, 0.19)[0]) == 1


def unit_vectors(rng: np.random.Generator, count: int, width: int = 4) -> np.ndarray:
    vectors = rng.standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("cosine", [-1.0, 0.9])
@pytest.mark.parametrize("ratio", [None, 0.95, 0.6])
@pytest.mark.parametrize("counts", [(60, 50), (1, 20), (20, 1), (1, 1)])
def test_nearest_neighbors_by_brute_force(
    counts: tuple[int, int], ratio: float | None, cosine: float
) -> None:
    rng = np.random.default_rng(5)
    first, second = unit_vectors(rng, counts[0]), unit_vectors(rng, counts[1])
    first[0] = second[-1] * 0.8 + first[0] * 0.2
    first[0] /= np.linalg.norm(first[0])
    distances = np.linalg.norm(first[:, None].astype(float) - second[None], axis=2)
    expected = []
    for i, row in enumerate(distances):
        j = int(row.argmin())
        ordered = np.sort(row)
        passes = ratio is None or len(row) == 1 or ordered[0] < ratio * ordered[1]
        similar = 1 - row[j] ** 2 / 2 > cosine
        if distances[:, j].argmin() == i and passes and similar:
            expected.append([i, j])
    indices, scores = nearest_neighbors(first, second, ratio, cosine)
    assert indices.tolist() == expected
    products = (first @ second.T)[tuple(indices.T)]
    np.testing.assert_allclose(scores, np.clip(products, 0, 1), atol=1e-6)


def test_the_ratio_test_drops_ambiguous_neighbors() -> None:
    rng = np.random.default_rng(6)
    second = unit_vectors(rng, 40)
    first = second[:20] + 0.05 * rng.standard_normal((20, 4)).astype(np.float32)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    twins = np.concatenate((second, second[:10] + 1e-3))  # ten of them twice
    twins /= np.linalg.norm(twins, axis=1, keepdims=True)
    kept = nearest_neighbors(first, twins, 0.8)[0][:, 0]
    assert (kept >= 10).all()
    assert len(kept) >= 5


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_match(counts: tuple[int, int]) -> None:
    empty = [np.zeros((count, 4), np.float32) for count in counts]
    indices, scores = nearest_neighbors(empty[0], empty[1], 0.8)
    assert indices.shape == (0, 2)
    assert scores.shape == (0,)


@pytest.mark.parametrize("shape", [(7, 5), (64, 33), (1, 9), (40, 1)])
def test_products_of_large_matrices_are_computed_in_chunks(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    whole = optimal_transport(scores, 1.0, 20)
    monkeypatch.setattr(assignment, "_CHUNK_ELEMENTS", 100)
    np.testing.assert_allclose(optimal_transport(scores, 1.0, 20), whole, rtol=1e-5, atol=1e-7)
