"""The stage "distill": approach to the teacher, exact resumption, pruning masks and errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from featherglue.artifact.format import load_artifact
from featherglue.cli import main
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.pruning.masks import Masks
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.quantization.qat import finish_qat, prepare_qat
from featherglue.config import AttentionConfig, SuperGlueConfig, SuperPointConfig
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import SceneConfig
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.distributed import ProcessGroup
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.losses.descriptor_map import DescriptorMap
from featherglue.train.losses.distillation_loss import DistillationConfig
from featherglue.train.losses.student_teacher import Student
from featherglue.train.stages.distill_stage import DistillStage, train_distill
from featherglue.train.stages.distillation_parts import make_loss, make_samples
from featherglue.train.stages.student import StudentConfig, build_student, build_teacher
from featherglue.train.stages.validation import ValidationConfig

THIN = SuperPointConfig(
    channels=(4, 4, 4, 4, 8, 8, 8, 8),
    detector_channels=8,
    descriptor_channels=8,
    descriptor_dim=8,
    batch_norm=True,
)
GLUE = SuperGlueConfig(
    descriptor_dim=8,
    width=8,
    keypoint_encoder=(8,),
    layers=(AttentionConfig(kind="cross", heads=1, head_dim=8, hidden=8),),
)
LOOP = LoopConfig(steps=3, batch_size=2, warmup=1, workers=0, bf16=False, learning_rate=5e-3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, image in photographs.items():
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(image, (160, 140)))
    return folder


@pytest.fixture
def stage(matching: Path) -> DistillStage:
    """A thin pair from scratch, taught by one that matches, whose descriptors are wider."""
    return DistillStage(
        loop=LOOP,
        teacher=str(matching),
        student=StudentConfig(extractor=THIN, matcher=GLUE),
        views=ViewPairConfig(size=(64, 64), max_points=32),
        scenes=SceneConfig(size=(96, 64), max_planes=2),
        min_keypoints=20,
        max_keypoints=30,
        validation=ValidationConfig(fraction=0),
        seed=3,
    )


def arrays(model: Model) -> dict[str, np.ndarray]:
    return model.to_artifact().arrays


def assert_equal(found: Model, expected: Model) -> None:
    ours, theirs = arrays(found), arrays(expected)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


# --- learning -------------------------------------------------------------------------------


def gaps(stage: DistillStage, model: Model, images: Path) -> dict[str, float]:
    """How far a model is from the teacher on samples that no run here sees."""
    other = dataclasses.replace(stage, seed=77)
    student_model = build_student(stage.student, stage.part, stage.extractor)
    teacher = build_teacher(load_artifact(stage.teacher), student_model)
    samples = make_samples(other, PhotoFolder(images), None, "cpu")
    items = [samples[i] for i in range(6)]
    batch = {key: torch.stack([torch.as_tensor(i[key]) for i in items]) for key in items[0]}
    student = Student(
        model.extractor if stage.part != "matcher" else None,
        model.matcher if stage.part != "extractor" else None,
        DescriptorMap(8, 8),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        return make_loss(other, student_model, teacher, ProcessGroup())(student.eval(), batch)[1]


def test_extractor_approaches_its_teacher_on_held_out_data(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    teacher = Model(extractor=SuperPoint(dataclasses.replace(THIN, batch_norm=False)), matcher=None)
    teacher.save(tmp_path / "teacher")
    stage = DistillStage(
        loop=dataclasses.replace(LOOP, steps=20, ema=0.5, learning_rate=0.02),
        teacher=str(tmp_path / "teacher"),
        part="extractor",
        student=StudentConfig(extractor=THIN),
        distillation=DistillationConfig(true_views=0),
        views=ViewPairConfig(size=(64, 64), max_points=8),
        validation=ValidationConfig(fraction=0),
    )
    before = gaps(stage, build_student(stage.student, "extractor").model, images)
    after = gaps(stage, train_distill(stage, images, tmp_path / "run"), images)
    assert set(after) == {"score_gap", "descriptor_gap"}
    assert after["score_gap"] < 0.5 * before["score_gap"]
    assert after["descriptor_gap"] < 0.5 * before["descriptor_gap"]


def test_views_may_have_several_sizes(images: Path, tmp_path: Path, stage: DistillStage) -> None:
    views = dataclasses.replace(stage.views, other_sizes=((96, 64),), foreground=0.5)
    several = dataclasses.replace(
        stage, part="extractor", views=views, loop=dataclasses.replace(LOOP, steps=6)
    )
    rows: list[int] = []
    train_distill(several, images, tmp_path / "run", report=lambda step, row: rows.append(step))
    assert rows[-1] == 6


def test_matcher_approaches_its_teacher_on_held_out_data(
    images: Path, tmp_path: Path, matching: Path, stage: DistillStage
) -> None:
    teacher = Model.load(matching)  # one that leaves fewer keypoints alone than a student at first
    assert teacher.matcher is not None
    teacher.matcher.bin_score.data.fill_(8.0)
    teacher.save(tmp_path / "teacher")
    glue = dataclasses.replace(GLUE, descriptor_dim=16, width=16)
    alone = dataclasses.replace(
        stage,
        teacher=str(tmp_path / "teacher"),
        part="matcher",
        extractor=str(matching),
        student=StudentConfig(matcher=glue),
        distillation=DistillationConfig(true_matches=0),
        scenes=SceneConfig(size=(96, 64), planar=1.0, photometric_strength=0.0),
        loop=dataclasses.replace(LOOP, steps=25, ema=0.5, learning_rate=0.01),
    )
    before = gaps(alone, build_student(alone.student, "matcher", str(matching)).model, images)
    trained = train_distill(alone, images, tmp_path / "run")
    after = gaps(alone, trained, images)
    assert 0 < after["assignment_gap"] < 0.6 * before["assignment_gap"]
    kept = Model.load(matching).extractor
    assert kept is not None and trained.extractor is not None
    assert torch.equal(trained.extractor.get_parameter("conv1a.weight"), kept.conv1a.weight)


@pytest.mark.parametrize("kind", ["learned", "procrustes"])
def test_resumed_run_equals_an_uninterrupted_one(
    kind: str, images: Path, tmp_path: Path, stage: DistillStage
) -> None:
    stage = dataclasses.replace(stage, distillation=DistillationConfig(map=kind))  # type: ignore[arg-type]
    whole = train_distill(stage, images, tmp_path / "whole")
    for i in range(LOOP.steps):
        torch.rand(i)
        part = train_distill(stage, images, tmp_path / "parts", minutes=0)
    assert_equal(part, whole)
    state = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["network"]
    name = "weight" if kind == "learned" else "products"
    assert state[f"descriptor_map.{name}"].shape == (8, 16)
    assert not any("map" in name for name in load_artifact(tmp_path / "parts" / "model").arrays)


def test_training_with_gradient_accumulation(
    images: Path, tmp_path: Path, stage: DistillStage
) -> None:
    loop = dataclasses.replace(LOOP, batch_size=4, accumulate=2, steps=1)
    trained = train_distill(dataclasses.replace(stage, loop=loop), images, tmp_path / "run")
    assert all(np.isfinite(array).all() for array in arrays(trained).values())


# --- passed students ------------------------------------------------------------------------


def test_pruning_masks_of_a_passed_student(
    images: Path, tmp_path: Path, matching: Path, stage: DistillStage
) -> None:
    student = Model.load(matching)
    masks: dict[str, torch.Tensor] = {}
    for prefix, network in student.networks().items():
        for name, layer in network.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                weight = layer.weight.detach()
                masks[f"{prefix}.{name}"] = weight.abs() > weight.abs().median()
                layer.weight.data *= masks[f"{prefix}.{name}"]

    def hold(module: nn.Module) -> None:
        for name, mask in masks.items():
            module.get_submodule(name).get_parameter("weight").data.mul_(mask)

    before = arrays(student)
    trained = train_distill(
        stage, images, tmp_path / "run", constraint=hold, student=student, finish=_marked
    )
    after = arrays(Model.load(tmp_path / "run" / "model"))
    assert trained.provenance.license == "marked"
    assert load_artifact(tmp_path / "run" / "model").provenance.license == "marked"
    for name, mask in masks.items():
        weight = after[f"{name}.weight"]
        assert (weight[~mask.numpy()] == 0).all()
        assert (weight != before[f"{name}.weight"]).any()
    np.testing.assert_array_equal(arrays(student)["matcher.bin_score"], before["matcher.bin_score"])


def _marked(model: Model) -> Model:
    """What a caller does to a model before it is saved."""
    return dataclasses.replace(
        model, provenance=dataclasses.replace(model.provenance, license="marked")
    )


@pytest.mark.parametrize("kind", ["linear", "codebook"])
@pytest.mark.parametrize("part", ["matcher", "both"])
def test_compressed_student_learns_from_its_dense_parent(
    kind: str, part: str, images: Path, tmp_path: Path, matching: Path, stage: DistillStage
) -> None:
    parent = Model.load(matching)
    pruned = prune(parent, PruneConfig(ratio=0.5))
    if kind == "linear":
        code = LinearConfig(bits=5, activation_bits=0, correct_bias=False)
        quantized = quantize_linear(pruned, code)
    else:
        quantized = quantize_codebook(pruned, CodebookConfig(bits=4))
    trained = train_distill(
        dataclasses.replace(stage, part=part),  # type: ignore[arg-type]
        images,
        tmp_path / "run",
        constraint=Masks.from_zeros(pruned).apply_to,
        student=prepare_qat(quantized, pruned),
        finish=finish_qat,
    )
    assert set(trained.quantization.tensors) == set(quantized.quantization.tensors)
    before, after, zeros = arrays(quantized), arrays(trained), arrays(pruned)
    for name in ("matcher.final_proj.weight", "extractor.conv3a.weight"):
        assert (after[name][zeros[name] == 0] == 0).all()
        moved = np.abs(after[name] - before[name]).max() > 1e-4  # not by rounding alone
        assert moved == (part == "both" or "matcher" in name)
    assert_equal(Model.load(tmp_path / "run" / "model"), trained)


# --- from the command line ------------------------------------------------------------------


def test_distillation_from_the_command_line_records_the_teacher(
    images: Path, tmp_path: Path, matching: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"""
teacher = "{matching}"
part = "extractor"
data = "three photographs"
[student]
start = "{matching}"
[views]
size = [64, 64]
max_points = 16
[validation]
fraction = 0
[loop]
steps = 1
batch_size = 2
workers = 0
bf16 = false
"""
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    command = ["train", "distill", "--config", str(tmp_path / "a.toml"), "--images", str(images)]
    assert main([*command, "--device", "cpu", "-o", str(tmp_path / "run")]) == 0
    assert "score_gap" in capsys.readouterr().err
    made = load_artifact(tmp_path / "run" / "model")
    teacher = load_artifact(matching)
    assert made.provenance.parent == teacher.hash
    *before, step = made.provenance.recipe
    assert tuple(before) == teacher.provenance.recipe
    assert (step["step"], step["teacher"], step["photographs"]) == ("distill", teacher.hash, 3)
    assert made.provenance.data == "three photographs"
    assert made.architecture == teacher.architecture  # the matcher came along
    # Another teacher under the same name is noticed.
    (tmp_path / "a.toml").write_text(
        text.replace(f'teacher = "{matching}"', f'teacher = "{tmp_path / "run" / "model"}"'),
        "utf-8",
    )
    command += ["--device", "cpu", "-o", str(tmp_path / "run"), "--resume"]
    assert main(command) == 1
    assert "other settings (teacher)" in capsys.readouterr().err


def test_incompatible_teachers_and_students_are_rejected(
    images: Path, tmp_path: Path, stage: DistillStage, models: dict[str, Model], matching: Path
) -> None:
    blind = dataclasses.replace(models["one-head"], extractor=None)
    blind.save(tmp_path / "blind")
    mute = dataclasses.replace(models["one-head"], matcher=None)
    mute.save(tmp_path / "mute")
    run = tmp_path / "run"
    for change, message in (
        ({"teacher": str(tmp_path / "blind")}, "a teacher without an extractor"),
        ({"teacher": str(tmp_path / "mute")}, "a teacher without a matcher"),
        ({"student": StudentConfig(start=str(tmp_path / "mute"))}, r"add \[student.matcher\]"),
        ({"student": StudentConfig(start=str(tmp_path / "blind"))}, r"add \[student.extractor\]"),
        ({"part": "matcher"}, "without an extractor finds no keypoints"),
        ({"depths": (1,)}, "depths must be increasing"),
        (
            {"student": StudentConfig(start=str(matching), extractor=THIN)},
            "another architecture|descriptor_dim",
        ),
    ):
        with pytest.raises((TrainingError, ConfigError), match=message):
            train_distill(dataclasses.replace(stage, **change), images, run)
    for change, message in (
        ({"part": "head"}, "part must be"),
        ({"min_keypoints": 0}, "min_keypoints must be between 1"),
        (
            {"distillation": DistillationConfig(assignment=0, true_matches=0)},
            "all weights of the matcher",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(stage, **change)
    for change in ({"scores": -1.0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            DistillationConfig(**change)  # type: ignore[arg-type]


@pytest.mark.slow
def test_validation_measures_the_part_that_is_trained(
    tmp_path: Path, stage: DistillStage, photographs: dict[str, np.ndarray], matching: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(20):
        image = cv2.resize(photographs["camera"], (100, 90))[i : i + 80]
        cv2.imwrite(str(folder / f"{i}.png"), image)
    chosen = ValidationConfig(fraction=0.1, views=2, keypoints=30)
    for part in ("extractor", "matcher", "both"):
        student = StudentConfig(start=str(matching))
        changed = dataclasses.replace(
            stage,
            part=part,
            student=student,
            validation=chosen,
            loop=dataclasses.replace(LOOP, steps=1),
        )
        train_distill(changed, folder, tmp_path / part)
        assert (tmp_path / part / "best" / "config.json").is_file()
