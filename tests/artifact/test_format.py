"""Saving and loading of artifacts; everything inconsistent or damaged raises."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from featherglue.artifact.folder import CARD, CONFIG, WEIGHTS
from featherglue.artifact.format import Artifact, load_artifact, save_artifact
from featherglue.config import Provenance
from featherglue.errors import ArtifactError, OutputError
from featherglue.models.model import Model
from featherglue.options import ProcessingConfig
from featherglue.runtime.base import open_runtime

NAMES = ["one-head", "four-heads", "projected", "context", "bare"]


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of an artifact that a test may change."""
    return Path(shutil.copytree(folders["four-heads"], tmp_path / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change config.json."""
    path = folder / CONFIG
    header = json.loads(path.read_text(encoding="utf-8"))
    change(header)
    path.write_text(json.dumps(header), encoding="utf-8")


def put_weights(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Replace the weights and update the hash."""
    data = safetensors.numpy.save(arrays)
    (folder / WEIGHTS).write_bytes(data)
    edit(folder, lambda header: header.update(hash=hashlib.sha256(data).hexdigest()))


def outputs(artifact: Artifact, gray: np.ndarray) -> list[np.ndarray]:
    runtime = open_runtime(artifact, "torch", None)
    rng = np.random.default_rng(0)
    points = rng.random((9, 3), np.float32)
    descriptors = rng.standard_normal((9, 16)).astype(np.float32)
    scores = runtime.match(points, descriptors, points[::-1], descriptors[::-1])
    return [*runtime.extract(gray[:64, :64]), scores]


# --- round trips -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_float32_round_trip_is_exact(
    name: str, models: dict[str, Model], tmp_path: Path, gray: np.ndarray
) -> None:
    model = dataclasses.replace(
        models[name],
        processing=ProcessingConfig(resize=(640,), max_keypoints=7, refine=False),
        provenance=Provenance(recipe=({"step": "test", "µ": [1, 2.5]},), data="d", license="l"),
    )
    artifact = model.to_artifact()
    returned = save_artifact(tmp_path / "model", artifact)
    loaded = load_artifact(tmp_path / "model")
    assert loaded.architecture == model.architecture
    assert loaded.processing == model.processing
    assert loaded.provenance == model.provenance
    assert set(loaded.arrays) == set(artifact.arrays)
    for key, array in artifact.arrays.items():
        assert loaded.arrays[key].dtype == np.float32
        np.testing.assert_array_equal(loaded.arrays[key], array)
        np.testing.assert_array_equal(returned.arrays[key], array)
    assert loaded.hash == returned.hash
    assert loaded.hash == hashlib.sha256((tmp_path / "model" / WEIGHTS).read_bytes()).hexdigest()
    assert loaded.folder == tmp_path / "model"
    for first, second in zip(outputs(artifact, gray), outputs(loaded, gray), strict=True):
        np.testing.assert_array_equal(first, second)


def test_float16_rounds_once(models: dict[str, Model], tmp_path: Path, gray: np.ndarray) -> None:
    original = models["four-heads"].to_artifact()
    once = save_artifact(tmp_path / "once", original, "float16")
    twice = save_artifact(tmp_path / "twice", once, "float16")
    changed = 0
    for key, array in original.arrays.items():
        expected = array.astype(np.float16).astype(np.float32)
        assert once.arrays[key].dtype == np.float32
        np.testing.assert_array_equal(once.arrays[key], expected)
        changed += int((expected != array).sum())
        assert once.storage.tensors[key].dtype == "float16"
    assert changed > 1000
    assert once.hash == twice.hash
    for first, second in zip(outputs(once, gray), outputs(twice, gray), strict=True):
        np.testing.assert_array_equal(first, second)
    sizes = [
        save_artifact(tmp_path / "full", original).file_sizes()[WEIGHTS],
        once.file_sizes()[WEIGHTS],
    ]
    assert sizes[1] < 0.7 * sizes[0]


def test_saving_is_deterministic(models: dict[str, Model], tmp_path: Path) -> None:
    for name in ("a", "b"):
        models["one-head"].save(tmp_path / name / "model")
    for file in (CONFIG, WEIGHTS, CARD):
        first, second = ((tmp_path / name / "model" / file).read_bytes() for name in "ab")
        assert first == second


def test_models_round_trip(folders: dict[str, Path], models: dict[str, Model]) -> None:
    model = Model.load(folders["projected"])
    for name, network in model.networks().items():
        assert not network.training
        expected = models["projected"].networks()[name].state_dict()
        for key, tensor in network.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                assert torch.equal(tensor, expected[key])


def test_a_single_network_round_trip(models: dict[str, Model], tmp_path: Path) -> None:
    both = models["four-heads"]
    for part in ("extractor", "matcher"):
        alone = dataclasses.replace(both, **{part: None})
        alone.save(tmp_path / part)
        loaded = Model.load(tmp_path / part)
        assert getattr(loaded, part) is None
        assert list(loaded.networks()) == [n for n in ("extractor", "matcher") if n != part]


def test_num_parameters_and_file_sizes(folders: dict[str, Path], models: dict[str, Model]) -> None:
    artifact = load_artifact(folders["four-heads"])
    networks = models["four-heads"].networks().values()
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert artifact.num_parameters == count
    zeroed = dict(artifact.arrays)
    zeroed["extractor.conv1a.weight"] = np.zeros_like(zeroed["extractor.conv1a.weight"])
    zeroed["extractor.bn1a.running_mean"] = np.zeros_like(zeroed["extractor.bn1a.running_mean"])
    pruned = dataclasses.replace(artifact, arrays=zeroed)
    assert artifact.num_nonzero == sum(
        int((p != 0).sum()) for network in networks for p in network.parameters()
    )
    assert pruned.num_nonzero == artifact.num_nonzero - 36  # running statistics are not learned
    files = {path.name: path.stat().st_size for path in folders["four-heads"].iterdir()}
    assert artifact.file_sizes() == files
    assert pruned.file_sizes() == files
    assert dataclasses.replace(artifact, folder=None).file_sizes() == {}


def test_storage_holds_the_sparsity(models: dict[str, Model], tmp_path: Path) -> None:
    artifact = models["one-head"].to_artifact()
    weight = artifact.arrays["extractor.conv2a.weight"]
    weight.reshape(-1)[: weight.size // 4] = 0
    saved = save_artifact(tmp_path / "model", artifact)
    assert saved.storage.tensors["extractor.conv2a.weight"].sparsity == 0.25
    assert saved.storage.tensors["extractor.conv2b.weight"].sparsity == 0
    assert set(saved.storage.tensors) == set(saved.arrays)


def test_the_model_card(models: dict[str, Model], tmp_path: Path) -> None:
    model = dataclasses.replace(
        models["one-head"],
        provenance=Provenance(
            recipe=({"step": "superpoint", "seed": 3}, {"step": "fold-batch-norm"}),
            data="photos",
            license="Apache-2.0",
        ),
    )
    artifact = model.save(tmp_path / "sparrow")
    card = (tmp_path / "sparrow" / CARD).read_text(encoding="utf-8")
    for fact in (
        "# sparrow",
        "a SuperPoint extractor and a SuperGlue matcher",
        "| License | Apache-2.0 |",
        "| Training data | photos |",
        f"| Parameters | {artifact.num_parameters:,} |",
        f"| Size of the weights | {artifact.file_sizes()[WEIGHTS]:,} bytes |",
        'fg.load("sparrow")',
        '1. superpoint: `{"seed": 3}`',
        "2. fold-batch-norm",
    ):
        assert fact in card
    assert card.index("## Use") < card.index("## How it was made")


def test_the_model_card_of_an_extractor(models: dict[str, Model], tmp_path: Path) -> None:
    dataclasses.replace(models["one-head"], matcher=None).save(tmp_path / "wren")
    card = (tmp_path / "wren" / CARD).read_text(encoding="utf-8")
    assert "a SuperPoint extractor." in card
    assert "| License | unknown |" in card
    assert "Matching" not in card and "## Use" not in card and "## How" not in card


# --- strictness -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(extra=1), "'extra'"),
        (lambda h: h.pop("storage"), "'storage'"),
        (lambda h: h["storage"]["tensors"].update(nonsense={"dtype": "float32"}), "nonsense"),
        (lambda h: h.update(version=True), "version"),
        (lambda h: h.update(version=4), "upgrade"),
        (lambda h: h.update(version="1"), "version"),
        (lambda h: h.update(format="other"), "not the configuration of a featherglue model"),
        (lambda h: h.update(hash="0" * 64), "damaged"),
        (lambda h: h.update(hash=None), "damaged"),
        (lambda h: h["processing"].update(max_keypoint=1), "processing: unknown key"),
        (lambda h: h["processing"].update(max_keypoints="512"), "max_keypoints"),
        (lambda h: h["processing"].update(match_threshold=3), "match_threshold"),
        (lambda h: h["architecture"]["matcher"].update(gnn=1), "unknown key 'gnn'"),
        (lambda h: h["architecture"].update(extractor=None, matcher=None), "needs an extractor"),
        (lambda h: h["storage"].update(codec="zip"), "unknown key 'codec'"),
        (lambda h: h["provenance"].update(author="me"), "unknown key 'author'"),
        (lambda h: h.update(architecture=[]), "expected a table"),
        (
            lambda h: h["architecture"]["extractor"].update(channels=[4, 4, 8, 8, 8, 8, 16, 12]),
            "the architecture needs",
        ),
        (lambda h: h["architecture"]["extractor"].update(batch_norm=False), "does not belong"),
        (lambda h: h["architecture"].update(matcher=None), "does not belong"),
        (
            lambda h: h["architecture"]["matcher"]["layers"].append({"kind": "self"}),
            "is missing",
        ),
    ],
)
def test_invalid_configurations_raise(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    load_artifact(folder)
    edit(folder, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_artifact(folder)
    assert str(folder) in str(caught.value)


def test_provenance_is_optional(folder: Path) -> None:
    edit(folder, lambda header: header.pop("provenance"))
    assert load_artifact(folder).provenance.recipe == ()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"featherglue"', "\x00"])
def test_malformed_json_raises(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(ArtifactError, match=r"config\.json"):
        load_artifact(folder)


def test_the_configuration_of_another_program_raises(folder: Path) -> None:
    (folder / CONFIG).write_text(json.dumps({"model_type": "superpoint", "architectures": []}))
    with pytest.raises(ArtifactError, match="not the configuration of a featherglue model"):
        load_artifact(folder)


def test_folders_without_a_model_raise(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "missing", "no such folder"),
        (tmp_path / "empty", "no config.json"),
        (folder / CONFIG, "not a featherglue model"),
    ):
        with pytest.raises(ArtifactError, match=message):
            load_artifact(path)


def test_damaged_weights_raise(folder: Path) -> None:
    path = folder / WEIGHTS
    data = path.read_bytes()
    for damaged in (data[:-1], data[: len(data) // 2], b"", data[:-4] + b"\x00\x00\x00\x01"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="damaged"):
            load_artifact(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors: cannot be read"):
        load_artifact(folder)


def test_weights_that_are_not_safetensors_raise(folder: Path) -> None:
    data = b"not safetensors at all"
    (folder / WEIGHTS).write_bytes(data)
    edit(folder, lambda header: header.update(hash=hashlib.sha256(data).hexdigest()))
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        load_artifact(folder)


def test_tensors_of_another_shape_name_or_dtype_raise(folder: Path) -> None:
    good = load_artifact(folder).arrays
    name = "extractor.conv3a.weight"
    nan, inf = good[name].copy(), good[name].copy()
    nan[0, 0, 0, 0], inf[0, 0, 0, 0] = np.nan, -np.inf
    for arrays, message in (
        ({k: v for k, v in good.items() if k != name}, f"{name} is missing"),
        (good | {"extractor.conv5a.weight": good[name]}, "conv5a.weight does not belong"),
        (good | {name: good[name][:, 1:]}, "has shape"),
        (good | {name: nan}, f"{name} holds values that are not finite"),
        (good | {name: inf}, "not finite"),
        (good | {name: good[name].astype(np.int32)}, name),
        (good | {name: good[name].astype(np.float64)}, name),
    ):
        put_weights(folder, {k: np.array(v, order="C") for k, v in arrays.items()})
        with pytest.raises(ArtifactError, match=message):
            load_artifact(folder)
    put_weights(folder, good)
    load_artifact(folder)


# --- writing --------------------------------------------------------------------------------


def test_saving_replaces_all_files(models: dict[str, Model], folder: Path) -> None:
    (folder / "matcher.onnx").write_bytes(b"a graph of the old weights")
    saved = models["projected"].save(folder)
    assert saved.architecture == models["projected"].architecture
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_saving_creates_folders_and_uses_empty_ones(
    models: dict[str, Model], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    expected = models["bare"].to_artifact().arrays
    for folder in (tmp_path / "empty", tmp_path / "new" / "deep" / "model"):
        saved = models["bare"].save(folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
        loaded = load_artifact(folder)
        assert (loaded.folder, loaded.hash) == (folder, saved.hash)
        assert set(loaded.arrays) == set(expected)


@pytest.mark.parametrize("kind", ["file", "folder", "other model"])
def test_other_files_are_not_replaced(models: dict[str, Model], tmp_path: Path, kind: str) -> None:
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("notes")
    else:
        target.mkdir()
        (target / "notes.txt").write_text("notes")
    if kind == "other model":  # as transformers writes them
        (target / CONFIG).write_text(json.dumps({"model_type": "superglue"}))
        (target / WEIGHTS).write_bytes(b"precious")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(OutputError, match="not a featherglue model"):
        models["bare"].save(target)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_unwritable_paths_raise(models: dict[str, Model], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "model", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="cannot be written"):
            models["bare"].save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_save_keeps_the_old_model(
    models: dict[str, Model], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_artifact(folder)
    write, rename = Path.write_bytes, Path.rename

    def full(self: Path, data: bytes) -> int:
        write(self, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        models["bare"].save(folder)
    monkeypatch.setattr(Path, "write_bytes", write)

    refused: list[Path] = []

    def refuse_once(self: Path, target: Path) -> Path:
        if target == folder and not refused:
            refused.append(self)
            raise OSError(5, "Input/output error")
        return rename(self, target)

    # As on systems that cannot swap two folders in one step.
    monkeypatch.setattr("featherglue.artifact.folder._exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", refuse_once)
    with pytest.raises(OutputError, match="Input/output error"):
        models["bare"].save(folder)
    monkeypatch.setattr(Path, "rename", rename)
    assert load_artifact(folder).hash == before.hash
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_weights_too_large_for_float16_raise(models: dict[str, Model], tmp_path: Path) -> None:
    artifact = models["bare"].to_artifact()
    artifact.arrays["matcher.bin_score"] = np.array(70000, np.float32)
    with pytest.raises(OutputError, match="too large for float16"):
        save_artifact(tmp_path / "model", artifact, "float16")
    saved = save_artifact(tmp_path / "model", artifact, "float32")
    assert saved.arrays["matcher.bin_score"] == 70000


def test_invalid_weights_are_not_saved(models: dict[str, Model], tmp_path: Path) -> None:
    artifact = models["bare"].to_artifact()
    artifact.arrays["extractor.conv1a.bias"][0] = np.nan
    with pytest.raises(ArtifactError, match="not finite"):
        save_artifact(tmp_path / "model", artifact)
    del artifact.arrays["extractor.conv1a.bias"]
    with pytest.raises(ArtifactError, match="is missing"):
        save_artifact(tmp_path / "model", artifact)
    assert list(tmp_path.iterdir()) == []


# --- artifacts of release 0.1 ---------------------------------------------------------------


@pytest.mark.parametrize(("stored", "read"), [(0.0, None), (0.7, 0.7)])
def test_artifacts_of_release_0_1_load(
    stored: float, read: float | None, models: dict[str, Model], tmp_path: Path
) -> None:
    artifact = models["one-head"].save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    header = json.loads(path.read_text())
    processing = header["processing"]
    processing |= {"surplus_threshold": 0.25, "surplus_after": 9, "consensus": stored}
    del processing["high_keypoint_threshold"], processing["high_threshold_after"]
    path.write_text(json.dumps(header | {"version": 2}))
    old = load_artifact(tmp_path / "model")
    assert old.processing == dataclasses.replace(
        artifact.processing,
        high_keypoint_threshold=0.25,
        high_threshold_after=9,
        consensus=read,
    )
    assert old.fingerprint == artifact.fingerprint
    path.write_text(json.dumps(header))  # the old names in the format of today
    with pytest.raises(ArtifactError, match="surplus"):
        load_artifact(tmp_path / "model")
