"""SuperGlue: padding, heads, layers, and mutual matches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from featherglue.config import AttentionConfig, SuperGlueConfig
from featherglue.models.attention import Attention, with_dense_strides
from featherglue.models.mlp import MaskedBatchNorm
from featherglue.models.model import Model
from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.models.superglue import (
    SuperGlue,
    mutual_matches,
    normalize_keypoints,
)

NAMES = ["one-head", "four-heads", "projected", "bare"]
COUNTS = [(7, 12), (12, 5), (1, 9)]
PADDED = 12

Side = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def sides(counts: list[tuple[int, int]], seed: int = 0) -> list[tuple[Side, Side]]:
    """Keypoints, scores and descriptors (1, N, …) of pairs with these numbers of keypoints."""
    generator = torch.Generator().manual_seed(seed)

    def side(count: int) -> Side:
        descriptors = torch.randn(1, count, 16, generator=generator)
        return (
            torch.rand(1, count, 2, generator=generator) - 0.5,
            torch.rand(1, count, generator=generator),
            torch.nn.functional.normalize(descriptors, dim=2),
        )

    return [(side(first), side(second)) for first, second in counts]


def padded(pairs: list[tuple[Side, Side]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """One batch, padded with large numbers, and its two masks."""
    inputs: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    for view in (0, 1):
        counts = [pair[view][0].shape[1] for pair in pairs]
        masks.append(torch.arange(PADDED) < torch.tensor(counts)[:, None])
        for part in range(3):
            rows = []
            for pair in pairs:
                tensor = pair[view][part]
                shape = (1, PADDED - tensor.shape[1], *tensor.shape[2:])
                rows.append(torch.cat((tensor, torch.full(shape, 50.0)), 1))
            inputs.append(torch.cat(rows))
    return inputs, masks


# --- padding --------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_padded_batches_equal_single_pairs(name: str, models: dict[str, Model]) -> None:
    matcher = models[name].matcher
    assert matcher is not None
    pairs = sides(COUNTS)
    inputs, masks = padded(pairs)
    batch = matcher(*inputs, mask0=masks[0], mask1=masks[1])
    transport = log_optimal_transport(batch, matcher.bin_score, 20, *masks)
    matches = mutual_matches(transport, 0.1)
    found = 0
    for i, ((first, second), (n, m)) in enumerate(zip(pairs, COUNTS, strict=True)):
        alone = matcher(*first, *second)
        assert alone.shape == (1, n, m)
        assert n == 1 or alone.std() > 0.1
        torch.testing.assert_close(batch[i : i + 1, :n, :m], alone, atol=1e-4, rtol=1e-4)
        expected = log_optimal_transport(alone, matcher.bin_score, 20)[0]
        rows, columns = [*range(n), PADDED], [*range(m), PADDED]
        real = transport[i][rows][:, columns]
        torch.testing.assert_close(real, expected, atol=1e-4, rtol=1e-4)
        for padded_part, part in zip(matches, mutual_matches(expected[None], 0.1), strict=True):
            length = part.shape[1]
            torch.testing.assert_close(padded_part[i, :length], part[0], atol=1e-4, rtol=1e-4)
            empty = torch.zeros_like(padded_part[i, length:])
            empty = empty - 1 if part.dtype == torch.int64 else empty
            torch.testing.assert_close(padded_part[i, length:], empty)
        found += int((matches[0][i] >= 0).sum())
    assert found > 0


@pytest.mark.parametrize("training", [False, True])
def test_padding_affects_no_score_and_no_gradient(
    training: bool, build: Callable[..., Model], models: dict[str, Model]
) -> None:
    matcher = build(models["four-heads"].architecture).matcher
    assert matcher is not None
    matcher.train(training)
    inputs, masks = padded(sides(COUNTS))
    results = []
    for value in (50.0, -3.0):
        for view in (0, 1):
            for tensor in inputs[3 * view : 3 * view + 3]:
                tensor[~masks[view]] = value
                tensor.requires_grad_(True)
        for module in matcher.modules():
            if isinstance(module, MaskedBatchNorm):
                module.reset_running_stats()
        scores = matcher(*inputs, mask0=masks[0], mask1=masks[1])
        real = masks[0][:, :, None] & masks[1][:, None]
        gradients = torch.autograd.grad((scores[real] ** 2).sum(), inputs)
        statistics = [b.clone() for n, b in matcher.named_buffers() if "running" in n]
        results.append((scores[real], *statistics, *gradients))
        for view in (0, 1):
            for gradient in gradients[3 * view : 3 * view + 3]:
                assert (gradient[~masks[view]] == 0).all()
                assert gradient[masks[view]].abs().max() > 0
        inputs = [tensor.detach().clone() for tensor in inputs]
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


def test_masked_batch_norm_ignores_padding() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(3, 5, 4), torch.rand(3, 5) < 0.6
    masked, plain = MaskedBatchNorm(4), torch.nn.BatchNorm1d(4)
    result = masked(x, mask)
    torch.testing.assert_close(result[mask], plain(x[mask]))
    assert (result[~mask] == 0).all()
    torch.testing.assert_close(masked.running_mean, plain.running_mean)
    torch.testing.assert_close(masked.running_var, plain.running_var)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_keypoints_does_not_matter(name: str, models: dict[str, Model]) -> None:
    matcher = models[name].matcher
    assert matcher is not None
    ((first, second),) = sides([(9, 11)])
    order0, order1 = torch.randperm(9), torch.randperm(11)
    shuffled0 = [tensor[:, order0] for tensor in first]
    shuffled1 = [tensor[:, order1] for tensor in second]
    expected = matcher(*first, *second)[:, order0][:, :, order1]
    torch.testing.assert_close(matcher(*shuffled0, *shuffled1), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_swapping_the_images_transposes_the_scores(name: str, models: dict[str, Model]) -> None:
    matcher = models[name].matcher
    assert matcher is not None
    ((first, second),) = sides([(9, 11)])
    forth, back = matcher(*first, *second), matcher(*second, *first)
    torch.testing.assert_close(forth.transpose(1, 2), back, atol=1e-4, rtol=1e-4)


# --- heads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
def test_dense_strides_for_one_head(heads: int) -> None:
    # PyTorch calls one head contiguous with any stride; CUDA kernels reject unaligned strides.
    interleaved = torch.randn(2, 5, 8 * heads).unflatten(-1, (8, heads)).permute(0, 3, 1, 2)
    assert interleaved.stride(1) == 1
    dense = with_dense_strides(interleaved)
    assert dense.stride() == (40 * heads, 40, 8, 1)
    assert torch.equal(dense, interleaved)


@torch.no_grad()
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 16), (2, 8), (4, 4), (3, 5), (16, 1)])
def test_attention_by_hand(heads: int, head_dim: int) -> None:
    torch.manual_seed(heads)
    attention = Attention(16, heads, head_dim)
    x, source = torch.randn(1, 6, 16), torch.randn(1, 9, 16)
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[0, 4] = False
    query, key, value = (
        layer(tensor)[0] for layer, tensor in zip(attention.proj, (x, source, source), strict=True)
    )
    message = torch.zeros(6, heads * head_dim)
    for head in range(heads):
        channels = torch.arange(heads * head_dim) % heads == head  # interleaved, as published
        logits = query[:, channels] @ key[:, channels].T / head_dim**0.5
        logits[:, ~mask[0]] = -torch.inf
        message[:, channels] = logits.softmax(1) @ value[:, channels]
    torch.testing.assert_close(
        attention(x, source, mask)[0], attention.merge(message), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_self_and_cross_layers_attend_to_their_source(randomize: Callable[..., None]) -> None:
    ((first, second),) = sides([(6, 8)])
    ((_, other),) = sides([(6, 8)], seed=9)
    for kind in ("self", "cross"):
        layers = (AttentionConfig(kind=kind, heads=2, head_dim=4, hidden=8),)  # type: ignore[arg-type]
        config = SuperGlueConfig(descriptor_dim=16, width=16, keypoint_encoder=(8,), layers=layers)
        matcher = SuperGlue(config)
        randomize(matcher, 0)
        states = [
            matcher.attend(matcher.encode(*first), matcher.encode(*side))[0]
            for side in (second, other)
        ]
        assert torch.equal(*states) == (kind == "self")


@torch.no_grad()
def test_attend_runs_a_range_of_layers(models: dict[str, Model]) -> None:
    matcher = models["four-heads"].matcher
    assert matcher is not None
    ((first, second),) = sides([(6, 8)])
    features = matcher.encode(*first), matcher.encode(*second)
    for stop in (0, 1, 2, None):
        expected = list(features)
        for layer in list(matcher.gnn.layers)[:stop]:
            sources = expected[::-1] if layer.kind == "cross" else expected
            expected = [
                x + layer(x, source, None, None)
                for x, source in zip(expected, sources, strict=True)
            ]
        for ours, theirs in zip(matcher.attend(*features, stop=stop), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


# --- matches --------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_mutual_matches_equal_brute_force(threshold: float) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((2, 8, 11))
    matches0, matches1, scores0, scores1 = (
        part.numpy() for part in mutual_matches(torch.from_numpy(probabilities).log(), threshold)
    )
    below = 0
    for b in range(2):
        inner = probabilities[b, :-1, :-1]
        expected0, expected1 = np.full(7, -1), np.full(10, -1)
        strength0, strength1 = np.zeros(7), np.zeros(10)
        for i in range(7):
            j = inner[i].argmax()
            if inner[:, j].argmax() != i:
                continue
            strength0[i] = strength1[j] = inner[i, j]  # kept even below the threshold
            below += inner[i, j] <= threshold
            if inner[i, j] > threshold:
                expected0[i], expected1[j] = j, i
        np.testing.assert_array_equal(matches0[b], expected0)
        np.testing.assert_array_equal(matches1[b], expected1)
        np.testing.assert_allclose(scores0[b], strength0)
        np.testing.assert_allclose(scores1[b], strength1)
        assert (expected0 >= 0).sum() >= 2


def test_a_mutual_match_below_the_threshold_keeps_its_score() -> None:
    assignment = torch.tensor([[[0.1, 0.9], [0.9, 0.0]]]).log()
    matches0, matches1, scores0, scores1 = mutual_matches(assignment, 0.2)
    assert matches0.tolist() == matches1.tolist() == [[-1]]
    assert scores0.tolist() == scores1.tolist() == [[pytest.approx(0.1)]]


def test_keypoints_are_normalized_by_the_longer_side() -> None:
    keypoints = torch.tensor([[[0.0, 0.0], [640.0, 480.0], [320.0, 240.0]]])
    expected = torch.tensor([[[-320.0, -240.0], [320.0, 240.0], [0.0, 0.0]]]) / (0.7 * 640)
    torch.testing.assert_close(normalize_keypoints(keypoints, torch.tensor([[640, 480]])), expected)
    upright = normalize_keypoints(keypoints.flip(2), torch.tensor([[480, 640]]))
    torch.testing.assert_close(upright, expected.flip(2))


@torch.no_grad()
@pytest.mark.parametrize("width", [16, 24])
def test_init_from_descriptors(width: int, randomize: Callable[..., None]) -> None:
    layers = (AttentionConfig(kind="self", heads=2, head_dim=4, hidden=8),) * 2
    config = SuperGlueConfig(descriptor_dim=16, width=width, keypoint_encoder=(8,), layers=layers)
    matcher = SuperGlue(config)
    randomize(matcher, 0)
    ((first, second),) = sides([(6, 8)])
    cosine = first[2] @ second[2].transpose(1, 2)
    assert (matcher(*first, *second) - cosine / 0.05).abs().max() > 1
    matcher.init_from_descriptors(temperature=0.05, unmatched=0.7)
    torch.testing.assert_close(matcher(*first, *second), cosine / 0.05, atol=1e-3, rtol=1e-4)
    assert matcher.bin_score.item() == pytest.approx(14)
