"""Recipes: read, written, checked before any work, followed, and remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featherglue as fg
from featherglue.artifact.encodings import CodebookTensor, LinearTensor
from featherglue.artifact.format import load_artifact
from featherglue.compression import recipe as recipe_module
from featherglue.compression.finetuning import pruned_weights
from featherglue.compression.match_threshold import ThresholdConfig
from featherglue.compression.pruning.fine_grained import PruneConfig
from featherglue.compression.pruning.masks import Masks
from featherglue.compression.quantization.codebook import CodebookConfig
from featherglue.compression.quantization.linear import LinearConfig
from featherglue.compression.recipe import Recipe, compress
from featherglue.compression.steps import KINDS, FinetuneConfig, FoldConfig
from featherglue.compression.structured.channels import ChannelConfig, StructureConfig
from featherglue.compression.structured.mac_budget import MacsConfig
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError, FeatherglueError, OutputError, UsageError
from featherglue.models.model import Model

SIZE = (160, 120)
EVERY = Recipe(
    steps=(
        StructureConfig(layers=1, width=0.25),
        MacsConfig(share=0.8, multiple=1, latencies=None, image_size=SIZE, keypoints=64),
        ChannelConfig(ratio=0.25, ratios={"extractor.conv4b": 0.5}),
        PruneConfig(ratio=0.5, ratios={'matcher.*"odd" \\ ü 😀': 0.25}, exclude=("*.conv1a",)),
        FinetuneConfig(
            network="matcher", settings={"steps": 5, "rates": [0.1, 1e-07], "deep": {"a": True}}
        ),
        FoldConfig(),
        ThresholdConfig(pairs=2, highest=0.5),
        LinearConfig(bits=6, include=("extractor.*",)),
        CodebookConfig(bits=3, include=("matcher.*",)),
    )
)


def fails(text: str, tmp_path: Path) -> str:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Recipe.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_holds_a_recipe(
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
    assert {type(step) for step in EVERY.steps} == {kind.config for kind in KINDS.values()}
    with pytest.raises(OutputError):
        EVERY.save(tmp_path)


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text('[[steps]]\nstep = "prune"\nratio = 0.9\ninclude = ["matcher.*"]\n')
    assert Recipe.load(path) == Recipe(steps=(PruneConfig(ratio=0.9, include=("matcher.*",)),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one step"),
        ("steps = 3", "list of tables"),
        ("steps = [3]", "steps[0]: a step is a table"),
        ("[[steps]]\nratio = 0.5", "a step is a table with its name"),
        ('[[steps]]\nstep = "shrink"', "no step 'shrink'; there are prune, channels"),
        ('[[steps]]\nstep = "prune"\nversion = 2', "version 2 of 'prune'"),
        ('[[steps]]\nstep = "prune"\nration = 0.5', "unknown key 'ration'"),
        ('[[steps]]\nstep = "prune"\nratio = "much"', "ratio: expected float"),
        ('[[steps]]\nstep = "prune"\nratio = 1.0', "a ratio lies in [0, 1), not 1.0"),
        ('[[steps]]\nstep = "prune"\nimportance = "luck"', "expected one of 'magnitude'"),
        ('[[steps]]\nstep = "macs"', "'share' is missing"),
        ('name = "x"\n[[steps]]\nstep = "fold"', "unknown key 'name'"),
        ("not toml", "not a TOML file"),
    ],
)
def test_files_that_we_do_not_understand(text: str, said: str, tmp_path: Path) -> None:
    assert said in fails(text, tmp_path)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Recipe.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="int is no step"):
        Recipe(steps=(3,))
    for odd in (None, float("inf")):
        with pytest.raises(ConfigError, match="cannot hold"):
            Recipe(steps=(FinetuneConfig(settings={"a": [odd]}),)).save(tmp_path / "odd.toml")


def test_a_recipe_is_followed_and_remembered(
    models: dict[str, Model], images: list[np.ndarray], tmp_path: Path
) -> None:
    """Prune, quantize the extractor linearly, share the matcher's weights: all in one artifact."""
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
    said: list[tuple[int, str]] = []
    made = compress(
        model,
        recipe,
        calibration=images,
        size=SIZE,
        parent="abc",
        report=lambda step, name: said.append((step, name)),
    )
    assert said == [(1, "channels"), (2, "prune"), (3, "linear"), (4, "codebook")]
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
    assert [step["step"] for step in provenance.recipe] == [name for _, name in said]
    assert Recipe.from_dict({"steps": list(provenance.recipe)}) == recipe
    # The model that it was made from is as it was.
    after = model.to_artifact().arrays
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert model.provenance.recipe == ()
    # Another recipe goes on from there.
    both = compress(loaded, Recipe(steps=(CodebookConfig(bits=5, include=("matcher.*",)),)))
    assert [step["step"] for step in both.provenance.recipe] == [*(n for _, n in said), "codebook"]
    assert both.provenance.parent == "abc"


def test_the_public_names(models: dict[str, Model]) -> None:
    recipe = fg.Recipe(steps=(PruneConfig(ratio=0.5),))
    made = fg.compress(models["bare"], recipe)
    assert isinstance(made, Model)
    assert fg.compress is compress
    weight = made.to_artifact().arrays["extractor.conv3a.weight"]
    assert np.mean(weight == 0) == 0.5


def test_fine_tuning_is_somebody_elses(models: dict[str, Model]) -> None:
    recipe = Recipe(
        steps=(PruneConfig(ratio=0.5), FinetuneConfig(settings={"steps": 3}), FoldConfig())
    )
    with pytest.raises(UsageError, match=r"step 2 \(finetune\) needs photographs"):
        compress(models["four-heads"], recipe)
    seen: list[Any] = []

    def finetune(model: Model, config: FinetuneConfig, original: Model | None) -> Model:
        assert original is None
        seen.append((model.to_artifact().arrays["extractor.conv3a.weight"], config.settings))
        return models["four-heads"]

    made = compress(models["four-heads"], recipe, finetune=finetune)
    assert np.mean(seen[0][0] == 0) == 0.5
    assert seen[0][1] == {"steps": 3}
    assert made.extractor is not None and not made.extractor.config.batch_norm
    assert (made.to_artifact().arrays["extractor.conv3a.weight"] != 0).all()


def test_the_same_recipe_makes_the_same_model(models: dict[str, Model], images: Any) -> None:
    recipe = Recipe(
        steps=(
            MacsConfig(share=0.6, multiple=1, importance="taylor"),
            CodebookConfig(start="random", bits=3),
        )
    )
    one, other = (
        compress(models["one-head"], recipe, calibration=images, size=SIZE).to_artifact().arrays
        for _ in range(2)
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)


# --- errors before any work ------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step fails where it is run."""

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a step was run")

    monkeypatch.setattr(recipe_module, "kind_of", _checking(refuse))


def _checking(run: Any) -> Any:
    from dataclasses import replace

    from featherglue.compression.steps import kind_of

    return lambda config: replace(kind_of(config), run=run)


GOOD = PruneConfig(ratio=0.5)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((PruneConfig(include=("extractor.conv9",)),), "step 2 (prune): no layer matches"),
        ((PruneConfig(ratios={"x": 0.1}),), "no layer matches 'x'"),
        ((ChannelConfig(ratio=0.95),), "step 2 (channels): a ratio of 0.95 leaves none"),
        ((StructureConfig(layers=9),), "2 layers, of which 9 cannot go"),
        ((MacsConfig(share=0.001),), "cannot be reached"),
        # The names after a fold, and after a layer has gone.
        ((FoldConfig(), PruneConfig(include=("*.mlp.3",))), "step 3 (prune): no layer matches"),
        (
            (StructureConfig(layers=1), PruneConfig(include=("*.layers.1.*",))),
            "step 3 (prune): no layer matches",
        ),
        ((CodebookConfig(), GOOD), "step 3 (prune): what is quantized cannot be pruned"),
        ((CodebookConfig(), ChannelConfig()), "put this step before"),
        (
            (CodebookConfig(), LinearConfig(activation_bits=0, correct_bias=False)),
            "batch normalisation cannot be folded",
        ),
        ((LinearConfig(),), "step 2 (linear) needs images for calibration: give some"),
        ((PruneConfig(importance="taylor"),), "step 2 (prune) needs images"),
        ((PruneConfig(importance="activation"),), "needs images"),
        ((StructureConfig(heads=0.5, importance="taylor"),), "needs images"),
        ((CodebookConfig(include=("nothing",)),), "step 2 (codebook): no layer matches"),
    ],
)
def test_wrong_steps_are_found_before_the_first_works(
    steps: tuple[Any, ...], said: str, models: dict[str, Model]
) -> None:
    with pytest.raises(FeatherglueError) as caught:
        compress(models["four-heads"], Recipe(steps=(GOOD, *steps)))
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("no_work")
def test_a_recipe_for_another_architecture(
    models: dict[str, Model], architectures: dict[str, ArchitectureConfig]
) -> None:
    for architecture, said in (
        (architectures["one-head"], "its extractor.batch_norm is False, the model's True"),
        (architectures["projected"], "its matcher.width is 12, the model's 16"),
        (
            ArchitectureConfig(extractor=architectures["four-heads"].extractor),
            "the matcher is in the model only",
        ),
        (
            ArchitectureConfig(matcher=architectures["four-heads"].matcher),
            "the extractor is in the model only",
        ),
    ):
        with pytest.raises(ConfigError, match="another architecture") as caught:
            compress(models["four-heads"], Recipe(steps=(GOOD,), architecture=architecture))
        assert said in str(caught.value)
    extractor = Model(extractor=models["bare"].extractor, matcher=None)
    for step, said in (
        (StructureConfig(heads=0.5), "no matcher"),
        (FinetuneConfig(), "no matcher to fine-tune"),
        (PruneConfig(include=("matcher.*",)), "no layer matches"),
    ):
        with pytest.raises(ConfigError, match=said):
            compress(extractor, Recipe(steps=(step,)))
    matcher = Model(extractor=None, matcher=models["one-head"].matcher)
    with pytest.raises(UsageError, match="a matcher alone cannot be calibrated"):
        compress(matcher, Recipe(steps=(LinearConfig(),)))


@pytest.mark.usefixtures("no_work")
def test_images_that_are_none(models: dict[str, Model], images: list[np.ndarray]) -> None:
    with pytest.raises(UsageError, match="there are none"):
        compress(models["bare"], Recipe(steps=(LinearConfig(),)), calibration=[])
    with pytest.raises(UsageError, match="multiples of 8"):
        compress(models["bare"], Recipe(steps=(GOOD,)), calibration=images, size=(100, 100))
    quantized = Model(
        extractor=models["one-head"].extractor,
        matcher=None,
        quantization=_codes(models["one-head"]),
    )
    with pytest.raises(UsageError, match=r"step 1 \(prune\): what is quantized"):
        compress(quantized, Recipe(steps=(GOOD,)))


def _codes(model: Model) -> Any:
    from featherglue.compression.quantization.codebook import quantize_codebook

    return quantize_codebook(model, CodebookConfig(include=("extractor.*",))).quantization


def test_fine_tuning_is_told_what_was_rounded(models: dict[str, Model]) -> None:
    """Zeros that rounding makes are numbers like any; those of pruning stay."""
    linear = LinearConfig(bits=4, activation_bits=0, correct_bias=False)
    recipe = Recipe(steps=(PruneConfig(ratio=0.05), linear, FinetuneConfig()))
    held: list[Any] = []

    def finetune(model: Model, config: FinetuneConfig, original: Model | None) -> Model:
        assert original is not None and model.quantization and not original.quantization
        assert original.architecture == model.architecture
        for masks in (pruned_weights(model, original), Masks.of(original), Masks.of(model)):
            held.append(sum(int((~mask).sum()) for mask in masks.kept.values()))
        return model

    compress(models["four-heads"], recipe, finetune=finetune)
    assert held[0] == held[1] < held[2]
