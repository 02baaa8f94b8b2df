"""`featherglue match --feature-file`: the pairs of a list from a feature file."""

from __future__ import annotations

from pathlib import Path

from featherglue.cli.collection_options import StepDisplay, print_step
from featherglue.cli.common import listed_folder, read_listed_pairs
from featherglue.collection.extraction import SessionSource
from featherglue.collection.photo_frames import checked_masks
from featherglue.collection.reconstruction_config import MATCHES
from featherglue.collection.store_matching import match_features
from featherglue.errors import UsageError
from featherglue.options import SessionOptions, settings


def match_feature_file(
    model: str,
    options: SessionOptions,
    pair_file: Path,
    images: Path | None,
    feature_file: Path,
    output: Path | None,
    masks: Path | None,
    *,
    cascade: bool,
    workers: int | None,
    ray: str | None,
    overwrite: bool,
    json_file: str | None,
) -> int:
    """Match the pairs of a list into a match file. Returns the exit code.

    Raises:
        UsageError: `images` is no folder, the list rotates images, or a setting that has no effect
            is given.
    """
    folder = listed_folder(images)
    listed = read_listed_pairs(pair_file)
    for pair in listed:
        if pair.rotation0 or pair.rotation1:
            raise UsageError(
                f"{pair_file}, line {pair.line}: a feature file has no rotated images; remove the "
                "rotations"
            )
    if options.threads is not None:
        raise UsageError(
            "--threads has no effect on a feature file, whose matches are made by processes of one "
            "thread: use --workers"
        )
    given = [name for name in options.overrides() if settings()[name].stage != "matching"]
    if given:
        raise UsageError(f"{given[0]} has no effect on a feature file: remove it")
    source = SessionSource(model=model, options=options)
    pairs = list(dict.fromkeys((pair.name0, pair.name1) for pair in listed))
    if masks is not None:
        if source.open().search == "off":
            raise UsageError(
                "--masks has no effect on a feature file without --search: its keypoints were "
                "extracted already"
            )
        checked_masks(masks, [name for pair in pairs for name in pair])
    with StepDisplay() as display:
        result = match_features(
            folder,
            feature_file,
            output or Path(MATCHES),
            pairs,
            source,
            cascade=cascade,
            masks=masks,
            workers=workers,
            ray=ray,
            overwrite=overwrite,
            progress=display.step("matching", "pairs"),
        )
    return print_step(result, "pairs", json_file)
