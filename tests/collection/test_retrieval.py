"""Similar images are found by their global descriptors."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from featherglue import cli
from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model, shipped_models
from featherglue.collection import retrieval
from featherglue.collection.candidate_votes import (
    NUM_STRONGEST,
    STRONGEST,
    count_votes,
    rank_candidates,
    strongest_descriptors,
)
from featherglue.collection.pair_selection import choose_pairs, loop_pairs, retrieval_pairs
from featherglue.collection.records import Record
from featherglue.collection.retrieval import (
    describe_images,
    find_vocabulary,
    learn_vocabulary,
    nearest_images,
    read_global_descriptors,
    similar_images,
)
from featherglue.collection.store import write_store
from featherglue.collection.vocabulary import Vocabulary, load_vocabulary, train_vocabulary
from featherglue.errors import ConfigError, StoreError, UsageError

NUM_PLACES, NUM_VIEWS, SIZE = 40, 5, 16


def views(seed: int) -> list[np.ndarray]:
    """Local descriptors of several views of each place, place by place."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(NUM_PLACES):
        place = rng.normal(size=(60, SIZE))
        for _ in range(NUM_VIEWS):
            seen = place[rng.permutation(60)[:45]] + 0.2 * rng.normal(size=(45, SIZE))
            images.append(seen / np.linalg.norm(seen, axis=1, keepdims=True))
    return [image.astype(np.float32) for image in images]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_vocabulary(
        views(1), "abc", num_centers=16, rotated_size=12, size=64, num_dropped=4
    )


def write_features(path: Path, images: list[np.ndarray], weights: str = "abc") -> list[str]:
    names = [f"{i:03d}.jpg" for i in range(len(images))]
    records = (
        Record(
            key=(name,),
            attributes={},
            arrays={"keypoints": np.zeros((len(image), 2)), "descriptors": image.T},
        )
        for name, image in zip(names, images, strict=True)
    )
    write_store(path, {"extractor": {"weights": weights}}, records)
    return names


def test_views_of_a_place_are_neighbors(vocabulary: Vocabulary) -> None:
    images = views(2)  # places that the vocabulary has not seen
    descriptors = np.stack([vocabulary.describe(image) for image in images])
    assert np.allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)
    found = nearest_images(descriptors, NUM_VIEWS - 1)
    place = np.arange(len(images)) // NUM_VIEWS
    assert (found != np.arange(len(images))[:, None]).all()
    assert np.mean(place[found] == place[:, None]) > 0.9


def test_an_image_without_features_and_descriptors_of_another_size(vocabulary: Vocabulary) -> None:
    assert not vocabulary.describe(np.zeros((0, SIZE))).any()
    with pytest.raises(UsageError, match=r"descriptors must be \(N, 16\), not \(3, 8\)"):
        vocabulary.describe(np.zeros((3, 8)))


def test_neighbors_of_duplicates_and_of_few_images() -> None:
    descriptors = np.eye(3, dtype=np.float32)[[0, 0, 0, 1]]
    found = nearest_images(descriptors, 2)
    assert all(row not in others for row, others in enumerate(found.tolist()))
    assert {*found[0]} == {1, 2}
    assert nearest_images(descriptors, 5)[0].tolist()[3:] == [-1, -1]
    assert nearest_images(descriptors, 1, np.array([2])).shape == (1, 1)


def test_many_images_are_searched_approximately(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = np.stack([vocabulary.describe(image) for image in views(5)])
    exact = nearest_images(descriptors, 4)
    monkeypatch.setattr(retrieval, "_MAX_EXACT", 50)
    approximate = nearest_images(descriptors, 4)
    common = [len({*a} & {*b}) / 4 for a, b in zip(exact, approximate, strict=True)]
    assert np.mean(common) > 0.9
    assert not any(row in others for row, others in enumerate(approximate.tolist()))
    monkeypatch.setattr(retrieval, "_NUM_PROBES", 1)
    assert (nearest_images(descriptors, 30) == -1).any()  # it looks into one cell only


def test_a_vocabulary_is_stored_small_and_damage_is_named(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    path = tmp_path / "vocabulary.safetensors"
    vocabulary.save(path)
    again = load_vocabulary(path)
    assert again.weights == "abc"
    image = views(3)[0]
    assert again.describe(image) @ vocabulary.describe(image) > 0.999
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=r"vocabulary.safetensors: is damaged"):
        load_vocabulary(path)
    with pytest.raises(StoreError, match="cannot be read"):
        load_vocabulary(tmp_path / "missing")


def test_too_few_images_for_a_vocabulary(tmp_path: Path) -> None:
    write_features(tmp_path / "features.h5", views(1)[:20])
    with pytest.raises(UsageError, match="of size 256 needs 512 images with features, not 20"):
        learn_vocabulary(tmp_path / "features.h5", tmp_path / "out")


def test_files_of_global_descriptors(vocabulary: Vocabulary, tmp_path: Path) -> None:
    features, output = tmp_path / "features.h5", tmp_path / "global_descriptors.h5"
    images = views(4)
    names = write_features(features, images)
    trained = tmp_path / "vocabulary.safetensors"
    learn_vocabulary(features, trained, num_centers=16, rotated_size=12, size=64, num_dropped=4)
    assert describe_images(features, output, trained, workers=1).num_reused == 0
    assert describe_images(features, output, trained, workers=1).num_reused == len(names)
    found = nearest_images(read_global_descriptors(output, names), 1)[:, 0]
    assert np.mean(found // NUM_VIEWS == np.arange(len(names)) // NUM_VIEWS) > 0.95
    vocabulary.save(trained)
    with pytest.raises(StoreError, match="was made with other settings"):
        describe_images(features, output, trained, workers=1)
    other = tmp_path / "other.h5"
    write_features(other, images[:3], weights="def")
    with pytest.raises(StoreError, match=r"of another model than that of .*other\.h5"):
        describe_images(other, tmp_path / "out.h5", trained, workers=1)


def test_pairs_of_neighbors_and_of_loops() -> None:
    # A path that comes back to its start: image 30 + i is at the place of image i.
    angles = 2 * np.pi * np.arange(60) / 30 + 0.01 * (np.arange(60) >= 30)
    descriptors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    names = [f"{i:02d}" for i in range(60)]
    ranking = dict(enumerate(nearest_images(descriptors, 30)))
    pairs = retrieval_pairs(names, ranking, 1)
    assert ("00", "30") in pairs and ("29", "59") in pairs
    assert len(pairs) == len(set(pairs)) and all(a < b for a, b in pairs)
    loops = loop_pairs(names, ranking, num_neighbors=1, overlap=3)
    assert loops == [("00", "30"), ("10", "40"), ("20", "50")]
    both = choose_pairs(
        "sequential",
        "photos",
        names,
        overlap=3,
        num_neighbors=1,
        loop_closure=True,
        similar=lambda queries: {i: ranking[i] for i in queries.tolist()},
    )
    assert set(loops) < set(both) and ("00", "01") in both


def test_each_image_chooses_images_that_it_has_no_pair_with() -> None:
    names = [f"{i}" for i in range(8)]
    # All images show one place. Their most similar ones are mutual.
    ranking = {
        i: np.array([i ^ 1, *(j for j in range(8) if j not in (i, i ^ 1))]) for i in range(8)
    }
    pairs = retrieval_pairs(names, ranking, 2)
    assert len(set(pairs)) == len(pairs) == 16
    assert {("0", "1"), ("2", "3"), ("4", "5"), ("6", "7")} < set(pairs)
    assert retrieval_pairs(names, ranking, 9) == list(itertools.combinations(names, 2))
    assert retrieval_pairs(names, {0: np.array([3])}, 2) == [("0", "3")]


def test_local_descriptors_order_the_candidates(tmp_path: Path) -> None:
    images = views(6)
    names = [f"{i:03d}.jpg" for i in range(len(images))]
    records = (
        Record(
            key=(name,),
            attributes={},
            arrays={STRONGEST: strongest_descriptors(image, np.linspace(0, 1, len(image)))},
        )
        for name, image in zip(names, images, strict=True)
    )
    write_store(tmp_path / "global.h5", {}, records)
    rng = np.random.default_rng(0)
    queries = {i: rng.permutation(len(images)) for i in (0, 7)}
    candidates = {i: np.append(others[others != i], -1) for i, others in queries.items()}
    arguments = tmp_path / "global.h5", tmp_path / "votes.h5", names, candidates
    ranking = rank_candidates(*arguments, workers=1)
    assert {*ranking[0][:4]} == {1, 2, 3, 4}
    assert {*ranking[7][:4]} == {5, 6, 8, 9}
    assert sorted(ranking[0].tolist()) == list(range(1, len(images)))
    assert ranking[5].tolist() in ([0, 7], [7, 0])  # a candidate of both
    before = (tmp_path / "votes.h5").stat().st_mtime_ns
    again = rank_candidates(*arguments, workers=1)
    assert (tmp_path / "votes.h5").stat().st_mtime_ns == before
    assert all((again[i] == ranking[i]).all() for i in ranking)


def test_one_image_has_no_similar_ones(tmp_path: Path) -> None:
    names = write_features(tmp_path / "features.h5", views(1)[:1])
    assert similar_images(tmp_path / "features.h5", tmp_path, "fast", names, 20) == {}
    assert retrieval_pairs(names, {}) == []


def test_the_strongest_descriptors() -> None:
    image = views(6)[0]
    many = np.concatenate([image] * 10)
    scores = np.arange(len(many), 0, -1)
    assert (
        strongest_descriptors(many[::-1], scores[::-1]) == strongest_descriptors(many, None)
    ).all()
    strongest = strongest_descriptors(many, scores)
    assert strongest.shape == (NUM_STRONGEST, SIZE)
    assert np.abs(strongest / 127 - many[:NUM_STRONGEST]).max() < 0.005
    assert count_votes(strongest, strongest[:0]) == 0
    own = count_votes(strongest[:45], strongest[:45])
    assert own == pytest.approx(45 * 0.6**3, rel=0.01)


def test_every_pair_of_few_images_and_neighbors_of_many() -> None:
    few = [f"{i:03d}" for i in range(200)]
    assert choose_pairs("auto", "photos", few) == list(itertools.combinations(few, 2))
    many = [*few, "200"]
    with pytest.raises(UsageError, match=r"of 201 images needs their features.*`feature_file`"):
        choose_pairs("auto", "photos", many)
    ranking = {i: np.delete(np.arange(201), i) for i in range(201)}
    assert 3000 < len(choose_pairs("auto", "photos", many, similar=lambda queries: ranking)) <= 4020
    with pytest.raises(ConfigError, match="`loop_closure` has no effect on `pairs='auto'`"):
        choose_pairs("auto", "photos", few, loop_closure=True)


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_have_a_vocabulary(name: str) -> None:
    path = find_vocabulary(name)
    assert path.stat().st_size <= 1_000_000
    assert load_vocabulary(path).weights == load_artifact(find_model(name)).fingerprint


def test_a_model_of_your_own_needs_a_vocabulary(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(find_model("fast"), folder)
    assert find_vocabulary(folder) == find_vocabulary("fast")  # the weights are the same
    with monkeypatch.context() as patched, pytest.raises(StoreError, match="has no vocabulary"):
        patched.setattr(retrieval, "load_vocabulary", lambda path: vocabulary)
        find_vocabulary(folder)
    vocabulary.save(folder / "vocabulary.safetensors")
    assert find_vocabulary(folder) == folder / "vocabulary.safetensors"


def test_a_vocabulary_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [image[:20] for seed in (1, 2, 3) for image in views(seed)]
    write_features(tmp_path / "features.h5", images)
    output = tmp_path / "vocabulary.safetensors"
    arguments = ["--feature-file", str(tmp_path / "features.h5"), "-o", str(output)]
    assert cli.main(["vocabulary", *arguments]) == 0
    assert "64 centers, 256 values" in capsys.readouterr().out
    assert load_vocabulary(output).size == 256
