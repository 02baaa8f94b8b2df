"""Import of published checkpoints, with random weights under the published names."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from published_checkpoints import HEADS, State, superglue_state, superpoint_state

from featherglue.artifact.format import load_artifact
from featherglue.cli import main
from featherglue.config import SuperGlueConfig, SuperPointConfig
from featherglue.errors import ArtifactError, UsageError
from featherglue.models.model import Model
from featherglue.models.published import load_published, read_state


def in_hugging_face_layout(point: State, glue: State) -> State:
    """The same two networks in the layout of transformers: linear layers, contiguous heads."""
    renamed: State = {}
    for name, tensor in point.items():
        layer, part = name.removeprefix("conv").split(".")
        where = {
            "P": f"keypoint_decoder.conv_score_{layer[1]}",
            "D": f"descriptor_decoder.conv_descriptor_{layer[1]}",
        }.get(layer[0]) or f"encoder.conv_blocks.{int(layer[0]) - 1}.conv_{layer[1]}"
        renamed[f"keypoint_detector.{where}.{part}"] = tensor
    for name, tensor in glue.items():
        flat = tensor[..., 0] if tensor.ndim == 3 else tensor
        width = len(flat) if flat.ndim else 1
        parts = name.split(".")
        if parts[0] == "bin_score":
            renamed[name] = flat
        elif parts[0] == "final_proj":
            renamed[f"final_projection.{name}"] = flat
        elif ".attn." in name:
            # Published: channel c belongs to head c mod 4. transformers: to head c // (width / 4).
            order = torch.arange(width).view(-1, HEADS).T.reshape(-1)
            which = {"0": "self.query", "1": "self.key", "2": "self.value"}
            if parts[4] == "merge":
                flat = flat[:, order] if flat.ndim == 2 else flat
                renamed[f"gnn.layers.{parts[2]}.attention.output.dense.{parts[5]}"] = flat
            else:
                new = f"gnn.layers.{parts[2]}.attention.{which[parts[5]]}.{parts[6]}"
                renamed[new] = flat[order]
        else:
            prefix = "keypoint_encoder.encoder" if parts[0] == "kenc" else ".".join(parts[:4])
            index, part = int(parts[-2]), parts[-1]
            block, step = divmod(index, 3)
            last = f"{'.'.join(parts[:-2])}.{index + 1}.running_mean" not in glue
            inner = ".batch_norm" if step else "" if last else ".linear"
            renamed[f"{prefix}.{block}{inner}.{part}"] = flat
    return {name: tensor.contiguous() for name, tensor in renamed.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in both layouts; the extractor in the old file format of PyTorch."""
    folder = tmp_path_factory.mktemp("published")
    point, glue = superpoint_state(), superglue_state()
    paths = {
        "superpoint": folder / "superpoint_v1.pth",
        "superglue": folder / "superglue_outdoor.pth",
        "pair": folder / "model.safetensors",
        "point": folder / "point" / "model.safetensors",
    }
    torch.save(point, paths["superpoint"], _use_new_zipfile_serialization=False)
    torch.save(glue, paths["superglue"])
    both = in_hugging_face_layout(point, glue)
    safetensors.torch.save_file(both, paths["pair"])
    paths["point"].parent.mkdir()
    prefix = "keypoint_detector."
    alone = {k.removeprefix(prefix): v for k, v in both.items() if k.startswith(prefix)}
    safetensors.torch.save_file(alone, paths["point"])
    return paths


def imported(arguments: list[str | Path], output: Path) -> Model:
    code = main(["import-weights", *map(str, arguments), "-o", str(output)])
    assert code == 0
    return Model.load(output)


# --- import -----------------------------------------------------------------------------


def test_both_layouts_give_the_same_model(
    files: dict[str, Path], tmp_path: Path, gray: np.ndarray
) -> None:
    models = [
        imported([files["superpoint"], files["superglue"]], tmp_path / "a"),
        imported([files["superglue"], files["superpoint"]], tmp_path / "b"),  # in any order
        imported([files["pair"]], tmp_path / "c"),
        imported([files["pair"], files["point"]], tmp_path / "d"),
    ]
    first = models[0].to_artifact()
    image = torch.from_numpy(gray[:64, :96])[None, None].float() / 255
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.rand(1, 20, 2, generator=generator),
        torch.rand(1, 20, generator=generator),
        torch.randn(1, 20, 16, generator=generator),
    ]
    outputs = []
    for model in models:
        assert model.architecture == models[0].architecture
        arrays = model.to_artifact().arrays
        assert set(arrays) == set(first.arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, first.arrays[name], err_msg=name)
        assert model.extractor is not None
        assert model.matcher is not None
        with torch.no_grad():
            outputs.append((*model.extractor(image), model.matcher(*inputs, *inputs)))
    assert outputs[0][0].std() > 1e-3
    assert outputs[0][2].std() > 1e-2
    for other in outputs[1:]:
        for ours, theirs in zip(outputs[0], other, strict=True):
            assert torch.equal(ours, theirs)


def test_published_weights_are_unchanged(files: dict[str, Path]) -> None:
    model = load_published(files["superpoint"], files["superglue"])
    assert model.extractor is not None
    assert model.matcher is not None
    point, glue = model.extractor.state_dict(), model.matcher.state_dict()
    for name, tensor in superpoint_state().items():
        assert torch.equal(point[name], tensor)
    for name, tensor in superglue_state().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(glue[name], tensor[..., 0] if tensor.ndim == 3 else tensor)
    assert not model.extractor.training
    assert not model.matcher.training


def test_a_single_network(files: dict[str, Path], tmp_path: Path) -> None:
    point = imported([files["superpoint"]], tmp_path / "point")
    assert point.extractor is not None
    assert point.matcher is None
    glue = imported([files["superglue"]], tmp_path / "glue")
    assert glue.extractor is None
    assert glue.matcher is not None
    with pytest.raises(UsageError, match="give superpoint"):
        load_published(None, None)


def test_published_sizes_are_inferred(tmp_path: Path) -> None:
    torch.save(
        superpoint_state((64, 64, 64, 64, 128, 128, 128, 128), 256, 256), tmp_path / "point.pth"
    )
    torch.save(superglue_state(256, (32, 64, 128, 256), 18), tmp_path / "glue.pth")
    model = load_published(tmp_path / "point.pth", tmp_path / "glue.pth")
    assert model.architecture.extractor == SuperPointConfig()
    assert model.architecture.matcher == SuperGlueConfig()


def test_the_command_reports_the_model(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["import-weights", str(files["pair"]), "-o", str(tmp_path / "model")]
    assert main([*arguments, "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    artifact = load_artifact(tmp_path / "model")
    assert facts["hash"] == artifact.hash
    assert facts["output"] == str(tmp_path / "model")
    assert artifact.provenance.recipe[0]["step"] == "import-weights"
    assert artifact.provenance.recipe[0]["files"] == ["model.safetensors"]
    assert "imported" in artifact.provenance.license
    assert not artifact.processing.subpixel
    assert main(arguments) == 0
    assert f"{facts['parameters']:,} parameters" in capsys.readouterr().out


# --- errors ------------------------------------------------------------------------


class Malicious:
    """Runs a function when unpickled."""

    touched: list[int] = []  # noqa: RUF012

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return Malicious.touched.append, (1,)


def refused(
    arguments: list[str | Path], output: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    code = main(["import-weights", *map(str, arguments), "-o", str(output)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert not output.exists()
    return code, captured.err


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_pickle_is_not_executed(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "superpoint_v1.pth"
    state = superpoint_state() | {"extra": Malicious()}
    if how == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    Malicious.touched.clear()
    code, message = refused([path], tmp_path / "model", capsys)
    assert code == 1
    assert path.name in message
    assert Malicious.touched == []


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["superpoint", "superglue", "pair"])
def test_damaged_files_raise(
    kind: str,
    fraction: float,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / files[kind].name
    data = files[kind].read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    code, message = refused([path], tmp_path / "model", capsys)
    assert code == 1
    assert path.name in message


def test_two_checkpoints_of_the_same_kind_raise(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for first, second in (("superpoint", "point"), ("superglue", "pair")):
        code, message = refused([files[first], files[second]], tmp_path / "model", capsys)
        assert code == 2
        assert "same network" in message
    code, message = refused([files["point"]] * 3, tmp_path / "model", capsys)
    assert code == 2
    assert "at most two" in message


def test_other_files_raise(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nested, other, numbers = (tmp_path / f"{name}.pth" for name in ("nested", "other", "numbers"))
    torch.save({"state_dict": superpoint_state()}, nested)
    torch.save({"fc.weight": torch.zeros(3, 3)}, other)
    torch.save({"epoch": 3}, numbers)
    picture = tmp_path / "picture.safetensors"
    picture.write_bytes(b"\x89PNG" * 100)
    for path, message in (
        (nested, "not a dictionary of tensors"),
        (other, "not a SuperPoint checkpoint"),
        (numbers, "not a dictionary of tensors"),
        (picture, "not a checkpoint, or damaged"),
        (tmp_path / "missing.pth", "no such file"),
        (tmp_path, "no such file"),
    ):
        code, error = refused([path], tmp_path / "model", capsys)
        assert code == 1
        assert message in error
    with pytest.raises(ArtifactError, match="not a SuperGlue checkpoint"):
        load_published(None, files["superpoint"])
    with pytest.raises(ArtifactError, match="not a SuperPoint checkpoint"):
        load_published(files["superglue"], None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("superpoint", "conv2b.weight"),
        ("superpoint", "conv2b.bias"),
        ("superpoint", "convPb.bias"),
        ("superglue", "gnn.layers.1.attn.proj.0.weight"),
        ("superglue", "gnn.layers.1.mlp.0.weight"),
        ("superglue", "gnn.layers.0.attn.merge.bias"),
        ("superglue", "kenc.encoder.0.weight"),
    ],
)
@pytest.mark.parametrize("how", ["missing", "another shape", "a number"])
def test_a_wrong_tensor_raises(
    kind: str, name: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = superpoint_state() if kind == "superpoint" else superglue_state()
    tensor = state.pop(name)
    if how == "another shape":
        state[name] = torch.cat((tensor, tensor))
    elif how == "a number":
        state[name] = torch.tensor(1.0)
    path = tmp_path / "file.pth"
    torch.save(state, path)
    code, message = refused([path], tmp_path / "model", capsys)
    assert code == 1
    assert "not a published checkpoint" in message or "not a Super" in message


def test_checkpoints_without_layers_raise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.pth"
    torch.save({k: v for k, v in superglue_state().items() if "gnn" not in k}, path)
    code, _ = refused([path], tmp_path / "model", capsys)
    assert code == 1


def test_other_folders_are_not_replaced(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The folder of the transformers model itself is a likely mistake.
    folder = Path(shutil.copytree(files["pair"].parent, tmp_path / "hf"))
    (folder / "config.json").write_text('{"model_type": "superglue"}')
    code = main(["import-weights", str(folder / "model.safetensors"), "-o", str(folder)])
    assert code == 1
    assert "not a featherglue model" in capsys.readouterr().err
    assert (folder / "superpoint_v1.pth").exists()


def test_read_state_reads_both_kinds(files: dict[str, Path]) -> None:
    state = superpoint_state()
    for path, name in (
        (files["superpoint"], "conv1a.weight"),
        (files["point"], "encoder.conv_blocks.0.conv_a.weight"),
    ):
        assert torch.equal(read_state(path)[name], state["conv1a.weight"])
