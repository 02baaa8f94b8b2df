"""Recipes: files, checks before the first step, application and provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featherglue as fg
from featherglue.artifact.encodings import CodebookTensor, LinearTensor
from featherglue.artifact.format import load_artifact
from featherglue.compression import compress as compress_module
from featherglue.compression.compress import compress
from featherglue.compression.finetuning import pruned_weights
from featherglue.compression.match_threshold import ThresholdConfig
from featherglue.compression.pruning.fine_grained import PruneConfig
from featherglue.compression.pruning.masks import Masks
from featherglue.compression.quantization.kmeans import CodebookConfig
from featherglue.compression.quantization.linear import LinearConfig
from featherglue.compression.recipe import Recipe
from featherglue.compression.step_types import FinetuneConfig, FoldConfig, StepResult
from featherglue.compression.steps import STEP_KINDS
from featherglue.compression.structured.channels import ChannelConfig, StructureConfig
from featherglue.compression.structured.mac_budget import MacsConfig
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError, FeatherglueError, OutputError, UsageError
from featherglue.models.model import Model

SIZE = (160, 120)
EVERY = Recipe(
    steps=(
        StructureConfig(layers=1, width=0.25),
        MacsConfig(budget=0.8, multiple=1, latencies=None, image_size=SIZE, num_keypoints=64),
        ChannelConfig(ratio=0.25, ratios={"extractor.conv4b": 0.5}),
        PruneConfig(ratio=0.5, ratios={'matcher.*"odd" \\ ü 😀': 0.25}, exclude=("*.conv1a",)),
        FinetuneConfig(
            network="matcher", settings={"steps": 5, "rates": [0.1, 1e-07], "deep": {"a": True}}
        ),
        FoldConfig(),
        ThresholdConfig(num_pairs=2, max_threshold=0.5),
        LinearConfig(bits=6, include=("extractor.*",)),
        CodebookConfig(bits=3, include=("matcher.*",)),
    )
)


def load_error(text: str, tmp_path: Path) -> str:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Recipe.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_saved_recipe_is_loaded(
    tmp_path: Path, architectures: dict[str, ArchitectureConfig]
) -> None:
    for architecture in (
        None,
        *architectures.values(),
        ArchitectureConfig(extractor=architectures["bare"].extractor),
    ):
        recipe = Recipe(steps=EVERY.steps, architecture=architecture)
        recipe.save(tmp_path / "recipe.toml")
        assert Recipe.load(tmp_path / "recipe.toml") == recipe
    assert {type(step) for step in EVERY.steps} == {kind.config for kind in STEP_KINDS.values()}
    with pytest.raises(OutputError):
        EVERY.save(tmp_path)


def test_defaults_can_be_omitted(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('[[steps]]\nstep = "prune"\nratio = 0.9\ninclude = ["matcher.*"]\n')
    assert Recipe.load(path) == Recipe(steps=(PruneConfig(ratio=0.9, include=("matcher.*",)),))


def test_keys_of_previous_versions_are_read() -> None:
    steps = [
        {"step": "threshold", "version": 1, "pairs": 3, "lowest": 0.1, "highest": 0.5},
        {"step": "macs", "share": 0.5, "keypoints": 64, "least": 0.25},
        {"step": "macs", "version": 2, "share": 0.5, "num_keypoints": 64, "min_share": 0.25},
        {"step": "macs", "version": 3, "budget": 0.5, "num_keypoints": 64, "min_fraction": 0.25},
    ]
    assert Recipe.from_dict({"steps": steps}).steps == (
        ThresholdConfig(num_pairs=3, min_threshold=0.1, max_threshold=0.5),
        *[MacsConfig(budget=0.5, num_keypoints=64, min_fraction=0.25)] * 3,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one step"),
        ("steps = 3", "list of tables"),
        ("steps = [3]", "steps[0]: a step is a table"),
        ("[[steps]]\nratio = 0.5", "a step is a table with a name"),
        ('[[steps]]\nstep = "shrink"', "no step 'shrink'; the steps are prune, channels"),
        ('[[steps]]\nstep = "prune"\nversion = 2', "version 2 of 'prune'"),
        ('[[steps]]\nstep = "prune"\nration = 0.5', "unknown key 'ration'"),
        ('[[steps]]\nstep = "prune"\nratio = "much"', "ratio: expected float"),
        ('[[steps]]\nstep = "prune"\nratio = 1.0', "a ratio must be in [0, 1), not 1.0"),
        ('[[steps]]\nstep = "prune"\nimportance = "luck"', "expected one of 'magnitude'"),
        ('[[steps]]\nstep = "macs"', "'budget' is missing"),
        ('name = "x"\n[[steps]]\nstep = "fold"', "unknown key 'name'"),
        ("not toml", "not valid TOML"),
    ],
)
def test_invalid_files_raise(text: str, message: str, tmp_path: Path) -> None:
    assert message in load_error(text, tmp_path)


def test_missing_file_and_invalid_values_raise(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Recipe.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="int is not a recipe step"):
        Recipe(steps=(3,))
    for odd in (None, float("inf")):
        with pytest.raises(ConfigError, match="cannot represent"):
            Recipe(steps=(FinetuneConfig(settings={"a": [odd]}),)).save(tmp_path / "odd.toml")


def test_recipe_is_applied_and_recorded(
    models: dict[str, Model], images: list[np.ndarray], tmp_path: Path
) -> None:
    model = models["four-heads"]
    before = model.to_artifact().arrays
    recipe = Recipe(
        steps=(
            ChannelConfig(ratio=0.25),
            PruneConfig(ratio=0.5, importance="activation"),
            LinearConfig(include=("extractor.*",)),
            CodebookConfig(bits=4, include=("matcher.*",)),
        )
    )
    reported: list[tuple[int, str]] = []
    made = compress(
        model,
        recipe,
        calibration_images=images,
        image_size=SIZE,
        parent="abc",
        report=lambda step, name: reported.append((step, name)),
    )
    assert reported == [(1, "channels"), (2, "prune"), (3, "linear"), (4, "codebook")]
    artifact = made.save(tmp_path / "made")
    loaded = Model.load(tmp_path / "made")
    assert loaded.architecture.extractor is not None
    assert loaded.architecture.extractor.channels == (3, 3, 6, 6, 6, 6, 12, 12)
    codes = loaded.quantization.tensors
    assert isinstance(codes["extractor.conv2a.weight"], LinearTensor)
    assert isinstance(codes["matcher.final_proj.weight"], CodebookTensor)
    for name in ("extractor.conv3a.weight", "matcher.final_proj.weight"):
        assert np.mean(artifact.arrays[name] == 0) >= 0.5
    provenance = load_artifact(tmp_path / "made").provenance
    assert provenance.parent == "abc"
    assert [step["step"] for step in provenance.recipe] == [name for _, name in reported]
    assert Recipe.from_dict({"steps": list(provenance.recipe)}) == recipe
    # The original model is unchanged.
    after = model.to_artifact().arrays
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert model.provenance.recipe == ()
    # Another recipe continues from the result.
    both = compress(loaded, Recipe(steps=(CodebookConfig(bits=5, include=("matcher.*",)),)))
    assert [step["step"] for step in both.provenance.recipe] == [
        *(n for _, n in reported),
        "codebook",
    ]
    assert both.provenance.parent == "abc"


def test_public_names(models: dict[str, Model]) -> None:
    recipe = fg.Recipe(steps=(PruneConfig(ratio=0.5),))
    made = fg.compress(models["bare"], recipe)
    assert isinstance(made, Model)
    assert fg.compress is compress
    weight = made.to_artifact().arrays["extractor.conv3a.weight"]
    assert np.mean(weight == 0) == 0.5


def test_finetune_step_calls_the_given_function(models: dict[str, Model]) -> None:
    recipe = Recipe(
        steps=(PruneConfig(ratio=0.5), FinetuneConfig(settings={"steps": 3}), FoldConfig())
    )
    with pytest.raises(UsageError, match=r"step 2 \(finetune\) requires training"):
        compress(models["four-heads"], recipe)
    seen: list[Any] = []

    def finetune(model: Model, config: FinetuneConfig, original: Model | None) -> StepResult:
        assert original is None
        seen.append((model.to_artifact().arrays["extractor.conv3a.weight"], config.settings))
        return StepResult(models["four-heads"], ({"step": "training", "minutes": 1},))

    made = compress(models["four-heads"], recipe, finetune=finetune)
    assert np.mean(seen[0][0] == 0) == 0.5
    assert seen[0][1] == {"steps": 3}
    records = [dict(step) for step in made.provenance.recipe]
    assert records[1] == {"step": "training", "minutes": 1}
    assert [record["step"] for record in records] == ["prune", "training", "fold"]
    assert made.extractor is not None and not made.extractor.config.batch_norm
    assert (made.to_artifact().arrays["extractor.conv3a.weight"] != 0).all()


def test_compress_is_deterministic(models: dict[str, Model], images: Any) -> None:
    recipe = Recipe(
        steps=(
            MacsConfig(budget=0.6, multiple=1, importance="taylor"),
            CodebookConfig(start="random", bits=3),
        )
    )
    one, other = (
        compress(models["one-head"], recipe, calibration_images=images, image_size=SIZE)
        .to_artifact()
        .arrays
        for _ in range(2)
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)


# --- errors before the first step --------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every step fail when it runs."""

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a step was run")

    monkeypatch.setattr(compress_module, "kind_of", _checking(refuse))


def _checking(run: Any) -> Any:
    from dataclasses import replace

    from featherglue.compression.steps import kind_of

    return lambda config: replace(kind_of(config), run=run)


GOOD = PruneConfig(ratio=0.5)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((PruneConfig(include=("extractor.conv9",)),), "step 2 (prune): no layer matches"),
        ((PruneConfig(ratios={"x": 0.1}),), "no layer matches 'x'"),
        ((ChannelConfig(ratio=0.95),), "step 2 (channels): a ratio of 0.95 removes all"),
        ((StructureConfig(layers=9),), "2 layers; 9 of them cannot be removed"),
        ((MacsConfig(budget=0.001),), "cannot be reached"),
        # Layer names change after a fold and after the removal of a layer.
        ((FoldConfig(), PruneConfig(include=("*.mlp.3",))), "step 3 (prune): no layer matches"),
        (
            (StructureConfig(layers=1), PruneConfig(include=("*.layers.1.*",))),
            "step 3 (prune): no layer matches",
        ),
        ((CodebookConfig(), GOOD), "step 3 (prune): a quantized model cannot be pruned"),
        ((CodebookConfig(), ChannelConfig()), "move this step before quantization"),
        (
            (CodebookConfig(), LinearConfig(activation_bits=0, correct_bias=False)),
            "batch normalization cannot be folded",
        ),
        ((LinearConfig(),), "step 2 (linear) requires photographs; set `calibration_images`"),
        ((PruneConfig(importance="taylor"),), "step 2 (prune) requires photographs"),
        ((PruneConfig(importance="activation"),), "requires photographs"),
        ((StructureConfig(heads=0.5, importance="taylor"),), "requires photographs"),
        ((CodebookConfig(include=("nothing",)),), "step 2 (codebook): no layer matches"),
    ],
)
def test_impossible_steps_raise_before_the_first_step(
    steps: tuple[Any, ...], message: str, models: dict[str, Model]
) -> None:
    with pytest.raises(FeatherglueError) as caught:
        compress(models["four-heads"], Recipe(steps=(GOOD, *steps)))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("no_work")
def test_recipe_for_another_architecture_raises(
    models: dict[str, Model], architectures: dict[str, ArchitectureConfig]
) -> None:
    for architecture, message in (
        (architectures["one-head"], "its extractor.batch_norm is False, that of the model is True"),
        (architectures["projected"], "its matcher.width is 12, that of the model is 16"),
        (
            ArchitectureConfig(extractor=architectures["four-heads"].extractor),
            "the matcher is only in the model",
        ),
        (
            ArchitectureConfig(matcher=architectures["four-heads"].matcher),
            "the extractor is only in the model",
        ),
    ):
        with pytest.raises(ConfigError, match="another architecture") as caught:
            compress(models["four-heads"], Recipe(steps=(GOOD,), architecture=architecture))
        assert message in str(caught.value)
    extractor = Model(extractor=models["bare"].extractor, matcher=None)
    for step, message in (
        (StructureConfig(heads=0.5), "no matcher"),
        (FinetuneConfig(), "no matcher to fine-tune"),
        (PruneConfig(include=("matcher.*",)), "no layer matches"),
    ):
        with pytest.raises(ConfigError, match=message):
            compress(extractor, Recipe(steps=(step,)))
    matcher = Model(extractor=None, matcher=models["one-head"].matcher)
    with pytest.raises(UsageError, match="a matcher without an extractor cannot be calibrated"):
        compress(matcher, Recipe(steps=(LinearConfig(),)))


@pytest.mark.usefixtures("no_work")
def test_unusable_images_and_models_raise(
    models: dict[str, Model], images: list[np.ndarray]
) -> None:
    with pytest.raises(UsageError, match="requires photographs"):
        compress(models["bare"], Recipe(steps=(LinearConfig(),)), calibration_images=[])
    with pytest.raises(UsageError, match="multiple of 8"):
        compress(
            models["bare"], Recipe(steps=(GOOD,)), calibration_images=images, image_size=(100, 100)
        )
    quantized = Model(
        extractor=models["one-head"].extractor,
        matcher=None,
        quantization=_codes(models["one-head"]),
    )
    with pytest.raises(UsageError, match=r"step 1 \(prune\): a quantized model"):
        compress(quantized, Recipe(steps=(GOOD,)))


def _codes(model: Model) -> Any:
    from featherglue.compression.quantization.kmeans import quantize_codebook

    return quantize_codebook(model, CodebookConfig(include=("extractor.*",))).quantization


def test_finetune_receives_the_unquantized_model(models: dict[str, Model]) -> None:
    """Zeros of pruning are masked; zeros of rounding are not."""
    linear = LinearConfig(bits=4, activation_bits=0, correct_bias=False)
    recipe = Recipe(steps=(PruneConfig(ratio=0.05), linear, FinetuneConfig()))
    zeros: list[int] = []

    def finetune(model: Model, config: FinetuneConfig, original: Model | None) -> StepResult:
        assert original is not None and model.quantization and not original.quantization
        assert original.architecture == model.architecture
        for masks in (
            pruned_weights(model, original),
            Masks.from_zeros(original),
            Masks.from_zeros(model),
        ):
            zeros.append(sum(int((~mask).sum()) for mask in masks.kept.values()))
        return StepResult(model, ())

    compress(models["four-heads"], recipe, finetune=finetune)
    assert zeros[0] == zeros[1] < zeros[2]
