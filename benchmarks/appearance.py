"""What each change of appearance contributes to descriptors: short trainings without one of them.

    python benchmarks/appearance.py PHOTOS FEATURES --start MODEL --data DATA --steps 800 -o WORK

Each run trains a context branch and the descriptor head of MODEL on homographies of PHOTOS, at the
keypoints in FEATURES (hloc's layout). Encoder and detector stay. Runs differ only in the changes of
appearance: all of them, none, all but one, and all with foreground objects. A run with another
seed shows how much chance matters. Descriptors are then matched by mutual nearest neighbors on the
suites `illumination`, `wide` and `val` in DATA. WORK keeps each run, so a stopped one resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import hard
from option_types import positive

import featherglue as fg
from featherglue.data.appearance import Change
from featherglue.data.homography import HomographyRange
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.models.model import Model
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.losses.feature_distillation_loss import FeatureDistillationConfig
from featherglue.train.stages.feature_distillation_stage import (
    FeatureDistillationStage,
    train_feature_distillation,
)
from featherglue.train.stages.validation import ValidationConfig

CHANGES = get_args(Change)
CONTEXT = (96, 96, 128, 128)
VIEWS = ViewPairConfig(
    size=(256, 256),
    photometric_strength=0.8,
    max_points=256,
    near=HomographyRange(
        rotation=15, scale=1.25, anisotropy=1.15, perspective=0.15, translation=0.05
    ),
    far=HomographyRange(rotation=60, scale=2.2, anisotropy=1.5, perspective=0.4, translation=0.15),
)
MATCHES = ("precision", "recall")
SUITES = {"illumination": ("AUC@3", "AUC@5"), "wide": ("AUC@5",), "val": ("AUC@5",)}


def variants() -> Iterator[tuple[str, ViewPairConfig, int]]:
    """Name, views and seed of each run."""
    yield "all", VIEWS, 0
    yield "all, another seed", VIEWS, 1
    yield "none", dataclasses.replace(VIEWS, changes=()), 0
    for left_out in CHANGES:
        rest = tuple(change for change in CHANGES if change != left_out)
        yield f"without {left_out}", dataclasses.replace(VIEWS, changes=rest), 0
    yield "all, and foreground", dataclasses.replace(VIEWS, foreground=0.3), 0


def train(views: ViewPairConfig, seed: int, folder: Path, arguments: argparse.Namespace) -> Path:
    """Train a variant, or return its model if it exists."""
    extractor = Model.load(arguments.start).architecture.extractor
    assert extractor is not None
    stage = FeatureDistillationStage(
        loop=LoopConfig(steps=arguments.steps, batch_size=8, learning_rate=1e-3, bf16=False),
        start=str(arguments.start),
        features=str(arguments.features),
        architecture=dataclasses.replace(extractor, context_channels=CONTEXT),
        part="descriptors",
        views=views,
        loss=FeatureDistillationConfig(truth=1.0, descriptors=0.0, contrast=0.0),
        validation=ValidationConfig(fraction=0),
        seed=seed,
    )
    if not (folder / "model" / "config.json").is_file():
        train_feature_distillation(stage, arguments.photos, folder)
    return folder / "model"


def measure(model: Path, suites: list[hard.Suite]) -> list[float]:
    """The figures of a row."""
    session = fg.load(model, matcher="nn", max_keypoints=1024, threads=1)
    row = []
    for suite in suites:
        result = suite.measure(session, None)
        for name in (*SUITES[suite.key], *MATCHES):
            value: Any = result
            for key in suite.figures[name]:
                value = value[key]
            row.append(float(value))
    return row


def main() -> None:
    """Train and measure all variants, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=positive, default=800)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    suites = [suite for suite in hard.suites(arguments.data, 0, 5) if suite.key in SUITES]
    figures = [
        f"{suite.key}: {name}" for suite in suites for name in (*SUITES[suite.key], *MATCHES)
    ]
    print("| changes | " + " | ".join(figures) + " |")
    print("|---|" + "---:|" * len(figures))
    for name, views, seed in variants():
        model = train(views, seed, arguments.output / name.replace(" ", "_"), arguments)
        row = measure(model, suites)
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |", flush=True)


if __name__ == "__main__":
    main()
