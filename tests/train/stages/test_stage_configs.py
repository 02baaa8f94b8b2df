"""Configurations of stages in TOML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_stages import POINT, write

from featherglue.cli import main
from featherglue.errors import ConfigError
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.stages.adapt_stage import AdaptStage
from featherglue.train.stages.distill_stage import DistillStage
from featherglue.train.stages.feature_distillation_stage import FeatureDistillationStage
from featherglue.train.stages.shapes_stage import ShapesStage
from featherglue.train.stages.stage_registry import STAGES
from featherglue.train.stages.superglue_stage import SuperGlueStage
from featherglue.train.stages.superpoint_stage import SuperPointStage


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (POINT + "\nspeed = 3\n", "validation: unknown key 'speed'"),
        ("sead = 3\n" + POINT, "unknown key 'sead'"),
        (POINT.replace("steps = 3", ""), "steps"),
        (POINT.replace("seed = 4", 'seed = "4"'), "seed: expected int"),
        (POINT.replace("size = [64, 64]", "size = 64"), "size: expected a list"),
        (POINT.replace("size = [64, 64]", "size = [64]"), "size"),
        (POINT.replace("size = [64, 64]", "size = [64, 60]"), "size"),
        (POINT.replace("steps = 3", "steps = -1"), "steps"),
        (POINT.replace("batch_size = 2", "batch_size = 0"), "batch_size"),
        ("seed = = 4", "not valid TOML"),
        (POINT + "\n[labels]\nminimum = 0.5\n", "require labels.file"),
        (POINT + '\n[labels]\nfile = "a.npz"\nby = []\n', "must name at least one"),
        (
            POINT + '\n[labels]\nfile = "a.npz"\nminimum = 0.5\ncertain = 0.4\n',
            "above labels.minimum",
        ),
        (POINT.replace("size = [64, 64]", "size = [64, 64]\nregion = 2.0", 1), "region"),
        (POINT.replace("fraction = ", "fraction = 0.5 # ", 1), "fraction must be"),
        (
            POINT.replace("size = [64, 64]", "size = [64, 64]\nphotometric_strength = -1.0", 1),
            "photometric_strength must be at least 0, not -1",
        ),
        (POINT + "\n[scenes]\nplanar = 1.5\n", r"planar must be in \[0, 1\], not 1.5"),
        (POINT + "\n[scenes]\nphotometric_strength = -0.5\n", "photometric_strength must be at"),
    ],
)
def test_an_invalid_configuration_is_rejected(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_stage(SuperPointStage, write(tmp_path / "stage.toml", text))


def test_a_missing_configuration_is_reported(tmp_path: Path, images: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stage(SuperPointStage, tmp_path / "missing.toml")
    arguments = ["--config", str(tmp_path / "missing.toml"), "--images", str(images)]
    assert main(["train", "superpoint", *arguments, "-o", str(tmp_path / "run")]) == 2


def test_the_configurations_of_the_repository_are_readable() -> None:
    folder = Path(__file__).parents[3] / "configs" / "train"
    if not folder.is_dir():
        pytest.skip("a source distribution comes without them")
    paths = list(folder.glob("*/*.toml"))
    assert len(paths) >= 10
    for path in paths:
        name = max((stage for stage in STAGES if path.stem.startswith(stage)), key=len)
        assert isinstance(read_stage(STAGES[name].config, path), STAGES[name].config)


@pytest.mark.parametrize(
    ("stage", "text", "message"),
    [
        (SuperGlueStage, 'extractor = "a"\nfewest = 3\n', "fewest has been renamed; use min_key"),
        (SuperGlueStage, 'extractor = "a"\nmost = 3\n', "most has been renamed; use max_keypoints"),
        (DistillStage, 'teacher = "a"\n[imitation]\nscores = 1.0\n', "use distillation"),
        (AdaptStage, 'extractor = "a"\n[labels]\nmost = 3\n', "labels.most has been renamed; use"),
        (AdaptStage, 'extractor = "a"\n[labels]\nlight = 1.0\n', "use labels.photometric_strength"),
        (SuperPointStage, "[views]\nlight = 1.0\n", "use views.photometric_strength"),
        (SuperPointStage, "[views]\npoints = 9\n", "use views.max_points"),
        (SuperGlueStage, 'extractor = "a"\n[scenes]\nplanes = 2\n', "use scenes.max_planes"),
        (ShapesStage, "[shapes]\nlight = 1.0\n", "use shapes.photometric_strength"),
        (SuperPointStage, "[validation]\nshare = 0\n", "validation.share has been renamed; use"),
        (
            FeatureDistillationStage,
            'start = "a"\nfeatures = "b"\n[loss]\nimitation = 1.0\n',
            "loss.imitation has been renamed; use loss.descriptors",
        ),
    ],
)
def test_an_old_name_of_a_setting_names_the_new_one(
    stage: type[Any], text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_stage(stage, write(tmp_path / "stage.toml", text))
