"""Parity with the networks of Hugging Face transformers, with random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from featherglue.matching.assignment import mutual_matches as numpy_mutual_matches
from featherglue.matching.assignment import optimal_transport
from featherglue.matching.keypoints import decode_features, sample_descriptors
from featherglue.models import keypoints as torch_keypoints
from featherglue.models.model import Model
from featherglue.models.published import load_published
from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.models.superglue import (
    mutual_matches,
    normalize_keypoints,
)
from featherglue.session import load

transformers = pytest.importorskip("transformers")

THRESHOLD = 0.005
ITERATIONS = 30


def point_config(border: int = 4, most: int = -1) -> Any:
    return transformers.SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 16, 16],
        decoder_hidden_size=32,
        descriptor_decoder_dim=32,
        keypoint_threshold=THRESHOLD,
        border_removal_distance=border,
        max_keypoints=most,
    )


def glue_config(threshold: float = 0.0) -> Any:
    return transformers.SuperGlueConfig(
        keypoint_detector_config=point_config(border=0, most=150),
        hidden_size=32,
        keypoint_encoder_sizes=[8, 16],
        gnn_layers_types=["self", "cross", "self", "cross"],
        num_attention_heads=4,
        sinkhorn_iterations=ITERATIONS,
        matching_threshold=threshold,
    )


@pytest.fixture(scope="module")
def hf_weights(randomize: Any) -> dict[str, torch.Tensor]:
    """Random weights of both networks that give varied scores and some matches."""
    pair = transformers.SuperGlueForKeypointMatching(glue_config())
    randomize(pair, 11)
    with torch.no_grad():
        pair.keypoint_detector.keypoint_decoder.conv_score_b.weight.mul_(4)
        # Descriptors of random networks are similar; these are spread out.
        pair.final_projection.final_proj.weight.mul_(3)
        for layer in pair.gnn.layers:
            layer.mlp[-1].weight.mul_(0.3)
        pair.bin_score.fill_(0.5)
    return {name: tensor.clone() for name, tensor in pair.state_dict().items()}


def hf_point(weights: dict[str, torch.Tensor], border: int) -> Any:
    network = transformers.SuperPointForKeypointDetection(point_config(border)).eval()
    prefix = "keypoint_detector."
    network.load_state_dict(
        {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    )
    return network


def hf_pair(weights: dict[str, torch.Tensor], threshold: float) -> Any:
    network = transformers.SuperGlueForKeypointMatching(glue_config(threshold)).eval()
    network.load_state_dict(weights)
    return network


@pytest.fixture(scope="module")
def ours(hf_weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("hf") / "model.safetensors"
    safetensors.torch.save_file(hf_weights, path)
    return load_published(None, path)


def pixels(image: np.ndarray) -> torch.Tensor:
    """The image as (1, 3, H, W), as transformers expects."""
    return (torch.from_numpy(image).float() / 255).expand(1, 3, -1, -1).contiguous()


def in_reading_order(
    keypoints: np.ndarray, scores: np.ndarray, descriptors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.lexsort((keypoints[:, 0], keypoints[:, 1]))
    return keypoints[order], scores[order], descriptors[order]


def hf_features(
    weights: dict[str, torch.Tensor], image: np.ndarray, border: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with torch.no_grad():
        output = hf_point(weights, border)(pixels(image))
    height, width = image.shape
    keypoints = output.keypoints[0].numpy() * (width, height)
    scores, descriptors = output.scores[0].numpy(), output.descriptors[0].numpy()
    # transformers multiplies sizes in pixels by 8, so it keeps the right and bottom borders.
    kept = (keypoints < (width - border - 0.5, height - border - 0.5)).all(1)
    return in_reading_order(keypoints[kept], scores[kept], descriptors[kept])


def torch_features(
    model: Model, image: np.ndarray, border: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert model.extractor is not None
    with torch.no_grad():
        heat, dense = model.extractor(pixels(image)[:, :1])
        keypoints, scores, valid = torch_keypoints.find_keypoints(
            heat, image.size, 4, border, THRESHOLD
        )
        keypoints, scores = keypoints[:, valid[0]], scores[:, valid[0]]
        descriptors = torch_keypoints.sample_descriptors(dense, keypoints, "published")
    return in_reading_order(keypoints[0].numpy(), scores[0].numpy(), descriptors[0].numpy())


def numpy_features(
    model: Model, image: np.ndarray, border: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert model.extractor is not None
    processing = dataclasses.replace(
        model.processing, max_keypoints=-1, keypoint_threshold=THRESHOLD, remove_borders=border
    )
    with torch.no_grad():
        heat, dense = model.extractor(pixels(image)[:, :1])
    size = image.shape[1], image.shape[0]
    maps = heat[0].numpy(), dense[0].permute(1, 2, 0).contiguous().numpy()
    return in_reading_order(*decode_features(*maps, size, processing))


# --- SuperPoint -----------------------------------------------------------------------------


@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("features", [torch_features, numpy_features])
def test_superpoint(
    features: Any,
    border: int,
    ours: Model,
    hf_weights: dict[str, torch.Tensor],
    gray: np.ndarray,
) -> None:
    image = np.ascontiguousarray(gray[:160, :240])
    expected = hf_features(hf_weights, image, border)
    keypoints, scores, descriptors = features(ours, image, border)
    assert len(expected[0]) > 150
    assert expected[1].std() > 0.02
    np.testing.assert_allclose(keypoints, expected[0], atol=1e-3)
    np.testing.assert_allclose(scores, expected[1], atol=1e-6)
    np.testing.assert_allclose(descriptors, expected[2], atol=2e-5)


def test_the_processing_of_published_models(ours: Model) -> None:
    processing = ours.processing
    assert (processing.subpixel, processing.descriptor_sampling) == (False, "published")
    assert (processing.sinkhorn_iterations, processing.match_threshold) == (100, 0.2)
    assert (processing.max_keypoints, processing.keypoint_threshold) == (1024, 0.005)


def test_descriptors_between_cells(hf_weights: dict[str, torch.Tensor]) -> None:
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((12, 20, 8)).astype(np.float32)
    keypoints = (rng.random((300, 2)) * (159, 95)).astype(np.float32)
    normalized = torch.nn.functional.normalize(
        torch.from_numpy(dense).permute(2, 0, 1)[None], dim=1
    )
    hf = hf_point(hf_weights, 0).descriptor_decoder
    expected = hf._sample_descriptors(torch.from_numpy(keypoints.copy())[None], normalized, 8)[0].T
    result = sample_descriptors(dense, keypoints, "published")
    np.testing.assert_allclose(result, expected.numpy(), atol=2e-5)


# --- SuperGlue ------------------------------------------------------------------------------


def pair_of_keypoints(seed: int, count: int = 60) -> tuple[torch.Tensor, ...]:
    """Keypoints (1, 2, N, 2), scores (1, 2, N), descriptors (1, 2, N, 32), with matches."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, 2)) * (640, 480)
    descriptors = rng.standard_normal((count, 32))
    shuffled = rng.permutation(count)
    keypoints = np.stack((points, points[shuffled] + rng.normal(0, 3, (count, 2))))
    both = np.stack((descriptors, descriptors[shuffled] + 0.3 * rng.standard_normal((count, 32))))
    both[1, ::4] = rng.standard_normal((len(both[1, ::4]), 32))
    both /= np.linalg.norm(both, axis=2, keepdims=True)
    scores = rng.random((2, count))
    return tuple(torch.from_numpy(array).float()[None] for array in (keypoints, scores, both))


def our_scores(model: Model, keypoints: Any, scores: Any, descriptors: Any) -> torch.Tensor:
    assert model.matcher is not None
    size = torch.tensor([[640.0, 480.0]])
    sides = [
        (normalize_keypoints(keypoints[:, i], size), scores[:, i], descriptors[:, i])
        for i in (0, 1)
    ]
    matrix: torch.Tensor = model.matcher(*sides[0], *sides[1])
    return matrix


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_superglue(
    seed: int, threshold: float, ours: Model, hf_weights: dict[str, torch.Tensor]
) -> None:
    keypoints, scores, descriptors = pair_of_keypoints(seed)
    matches, confidence, *_ = hf_pair(hf_weights, threshold)._match_image_pair(
        keypoints, descriptors, scores, 480, 640
    )
    assert ours.matcher is not None
    matrix = our_scores(ours, keypoints, scores, descriptors)
    assert matrix.std() > 0.5
    log_assignment = log_optimal_transport(matrix, ours.matcher.bin_score, ITERATIONS)
    matches0, matches1, scores0, scores1 = mutual_matches(log_assignment, threshold)
    found = int((matches0 >= 0).sum())
    assert found >= 5
    torch.testing.assert_close(torch.stack((matches0, matches1), 1), matches)
    # As published, a mutual match below the threshold keeps its score; transformers clears it.
    if threshold:
        assert ((scores0 > 0) & (scores0 <= threshold)).any()
    kept = torch.stack((scores0, scores1), 1)
    kept = torch.where(kept > threshold, kept, 0)
    torch.testing.assert_close(kept, confidence, atol=2e-5, rtol=1e-4)
    # The NumPy implementation gives the same matches.
    assignment = optimal_transport(matrix[0].numpy(), float(ours.matcher.bin_score), ITERATIONS)
    indices, strength = numpy_mutual_matches(assignment, threshold)
    expected0 = matches[0, 0].numpy()
    np.testing.assert_array_equal(indices[:, 0], np.flatnonzero(expected0 >= 0))
    np.testing.assert_array_equal(indices[:, 1], expected0[expected0 >= 0])
    np.testing.assert_allclose(strength, confidence[0, 0].numpy()[indices[:, 0]], atol=1e-4)


@torch.no_grad()
def test_the_order_of_the_heads_matters(ours: Model, hf_weights: dict[str, torch.Tensor]) -> None:
    """Other scores without interleaved heads: the parity tests notice the order."""
    keypoints, scores, descriptors = pair_of_keypoints(0)
    right = our_scores(ours, keypoints, scores, descriptors)
    wrong = Model.from_artifact(ours.to_artifact())
    assert wrong.matcher is not None
    state = wrong.matcher.state_dict()
    for i in range(4):
        for hf, own in (("query", 0), ("key", 1), ("value", 2)):
            source = hf_weights[f"gnn.layers.{i}.attention.self.{hf}.weight"]
            state[f"gnn.layers.{i}.attn.proj.{own}.weight"].copy_(source)
    assert (our_scores(wrong, keypoints, scores, descriptors) - right).abs().max() > 1e-2


# --- the pair -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_end_to_end_on_two_images(
    runtime: Any,
    ours: Model,
    hf_weights: dict[str, torch.Tensor],
    gray: np.ndarray,
    tmp_path: Path,
) -> None:
    images = gray[:160, :240], gray[24:184, 40:280]
    threshold = 0.01
    both = torch.stack([pixels(np.ascontiguousarray(image))[0] for image in images])[None]
    output = hf_pair(hf_weights, threshold)(both)
    counts = output.mask.sum(-1)[0]
    assert counts[0] == counts[1] == 150  # with unequal counts, transformers' dustbins differ
    keypoints = output.keypoints[0].numpy() * (240, 160)
    expected = {
        (*keypoints[0, i].round().astype(int), *keypoints[1, j].round().astype(int)): float(score)
        for i, (j, score) in enumerate(
            zip(output.matches[0, 0], output.matching_scores[0, 0], strict=True)
        )
        if j >= 0
    }
    assert len(expected) >= 10
    processing = dataclasses.replace(
        ours.processing,
        max_keypoints=150,
        sinkhorn_iterations=ITERATIONS,
        match_threshold=threshold,
        remove_borders=0,
        refine=False,
    )
    dataclasses.replace(ours, processing=processing).save(tmp_path / "model")
    session = load(tmp_path / "model", runtime=runtime, search="off")
    result = session(*images)
    for i, features in enumerate((result.features0, result.features1)):
        order = np.lexsort(features.keypoints.round().T)
        hf_order = np.lexsort(keypoints[i].round().T)
        np.testing.assert_allclose(features.keypoints[order], keypoints[i][hf_order], atol=1e-3)
    matches = result.matches
    found = {
        (*a.round().astype(int), *b.round().astype(int)): float(score)
        for a, b, score in zip(matches.points0, matches.points1, matches.scores, strict=True)
    }
    assert set(found) == set(expected)
    for pair, score in expected.items():
        assert found[pair] == pytest.approx(score, abs=1e-4)
