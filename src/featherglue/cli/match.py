"""`featherglue match`: two images, a list of pairs, or a folder of frames."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from featherglue.cli.common import (
    STANDARD_OUTPUT,
    JsonFile,
    Masks,
    Model,
    Ray,
    Workers,
    console,
    listed_folder,
    one_line,
    read_listed_pairs,
    save_json,
)
from featherglue.cli.progress import ProgressDisplay
from featherglue.cli.session_options import with_session_options
from featherglue.collection.pair_matching import PairOutcome, match_pairs, sequence_pairs
from featherglue.collection.photo_frames import mask_path, read_masked
from featherglue.drawing import draw_matches
from featherglue.errors import EstimationError, UsageError, counted
from featherglue.io.files import write_image
from featherglue.io.pairs import Pair
from featherglue.matching.stopwatch import Stopwatch
from featherglue.matching.working_size import working_size
from featherglue.options import SessionOptions
from featherglue.session import Session, load
from featherglue.types import MatchResult

INLIER_THRESHOLD = 2.0  # pixels
DEFAULT_FOLDER = Path("featherglue_matches")
MATCH_SUFFIX = ".npz"
InputPairs = Annotated[
    Path | None,
    typer.Option(
        "--input-pairs",
        metavar="FILE|-",
        help="List of image pairs, one per line; - is standard input.",
    ),
]
InputDir = Annotated[
    Path | None,
    typer.Option("--input-dir", metavar="DIR", help="Folder of the images of the list."),
]
StoredFeatures = Annotated[
    Path | None,
    typer.Option(
        "--feature-file",
        metavar="FILE",
        help="Features of the images of the list, from featherglue extract; the output is a "
        "match file (HDF5).",
    ),
]
Cascade = Annotated[
    bool | None,
    typer.Option(
        "--cascade/--no-cascade",
        help="With a feature file: match easy pairs by their descriptors, and reject pairs without "
        "an epipolar geometry (default).",
    ),
]


@with_session_options
def match(
    image0: Annotated[
        Path | None, typer.Argument(help="First image, or a folder of frames.")
    ] = None,
    image1: Annotated[Path | None, typer.Argument(help="Second image.")] = None,
    input_pairs: InputPairs = None,
    input_dir: InputDir = None,
    feature_file: StoredFeatures = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Picture or .npz file of the matches of two images; folder for many pairs "
            f"({DEFAULT_FOLDER} by default).",
        ),
    ] = None,
    cascade: Cascade = None,
    masks: Masks = None,
    model: Model = "fast",
    workers: Workers = None,
    ray: Ray = None,
    viz: Annotated[bool, typer.Option("--viz/--no-viz", help="Draw pictures of matches.")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Match again pairs that already have a result.")
    ] = False,
    json_file: JsonFile = None,
    *,
    options: SessionOptions,
) -> int:
    """Match two images, the pairs of a list, or the frames of a folder.

    For two images it writes a picture of their matches, or their matches as an npz file. For a list
    or a folder it writes an npz file and a picture for each pair. Each frame of a folder is matched
    with the next one. With a feature file it extracts nothing, and writes the matches of the list
    into one file; only this work runs on several processes or on a cluster. The exit code is 0 also
    without a consistent geometry, which has 0 inliers.
    """
    if feature_file is not None:
        if input_pairs is None or image0 is not None:
            raise UsageError("--feature-file needs --input-pairs, and no images")
        from featherglue.cli.match_feature_file import match_feature_file

        return match_feature_file(
            model,
            options,
            input_pairs,
            input_dir,
            feature_file,
            output,
            masks,
            cascade=cascade is not False,
            workers=workers,
            ray=ray,
            overwrite=overwrite,
            json_file=json_file,
        )
    if workers is not None or ray is not None:
        raise UsageError(f"--{'ray' if workers is None else 'workers'} needs --feature-file")
    if cascade is not None:
        raise UsageError("--cascade and --no-cascade apply to a --feature-file")
    pairs, source = _pairs_to_match(image0, image1, input_pairs, input_dir)
    if pairs is None and overwrite:
        raise UsageError("--overwrite applies to many pairs; two images are always matched again")
    is_picture = output is None or cv2.haveImageWriter(output.name)
    if pairs is None and not is_picture and output is not None and output.suffix != MATCH_SUFFIX:
        raise UsageError(f"-o {output}: unknown format; use .png or .jpg, or {MATCH_SUFFIX}")
    folder = output or DEFAULT_FOLDER
    if pairs is not None:
        _check_folder(folder)
    session = load(model, options)
    if pairs is None:
        assert image0 is not None and image1 is not None
        return _match_two(session, image0, image1, masks, output, viz, json_file)
    return _match_many(session, pairs, source, masks, folder, viz, overwrite, json_file)


def _check_folder(folder: Path) -> None:
    """Raise UsageError if the output of many pairs is a file, or named like a picture."""
    if not folder.is_dir() and (folder.exists() or cv2.haveImageWriter(folder.name)):
        raise UsageError(f"-o {folder}: is a file, not a folder; many pairs need a folder")


def _pairs_to_match(
    image0: Path | None, image1: Path | None, input_pairs: Path | None, input_dir: Path | None
) -> tuple[list[Pair] | None, Path]:
    """The pairs to match and the folder of their images; None for two single images."""
    if input_pairs is not None:
        if image0 is not None:
            raise UsageError(f"`input_pairs` names the images to match: remove it or {image0}")
        folder = listed_folder(input_dir)
        return read_listed_pairs(input_pairs), folder
    if input_dir is not None:
        raise UsageError("--input-dir needs --input-pairs")
    if image0 is None:
        raise UsageError("nothing to match: give two images, a folder of frames or --input-pairs")
    if image1 is not None:
        return None, Path()
    if image0.is_dir():
        return sequence_pairs(image0), image0
    if not image0.exists():
        raise UsageError(f"{image0}: no such file or folder")
    raise UsageError(f"{image0}: give a second image, or a folder of frames")


def _match_two(
    session: Session,
    image0: Path,
    image1: Path,
    masks: Path | None,
    output: Path | None,
    viz: bool,
    json_file: str | None,
) -> int:
    saves_matches = output is not None and output.suffix == MATCH_SUFFIX
    if output is not None and not viz and not saves_matches:
        raise UsageError("-o names the picture of the matches: remove --no-viz")
    result = session(image0, image1) if masks is None else _masked(session, image0, image1, masks)
    picture: Path | None = None
    if output is not None and saves_matches:
        result.save(output)
    elif viz:
        picture = output or Path(f"{image0.stem}_{image1.stem}_matches.png")
        write_image(picture, draw_matches(result, lines=_caption(result)))
    facts = summarize(result)
    facts["image0"], facts["image1"] = str(image0), str(image1)
    facts["picture"] = str(picture) if picture else None
    facts["output"] = str(output) if saves_matches else facts["picture"]
    facts |= _matches_as_lists(result)
    save_json(facts, json_file)
    if json_file == STANDARD_OUTPUT:
        return 0
    found = facts["search"]
    view = (
        f"search      rotated by {round(found['rotation'])}°, scaled by {found['scale']:.2f}\n"
        if found
        else ""
    )
    console.print(
        f"keypoints   {facts['keypoints0']} and {facts['keypoints1']}\n"
        f"matches     {facts['matches']}, {facts['refined']} refined\n"
        f"inliers     {_inliers(facts)}\n"
        f"{view}{_reduction(session, result)}"
        f"time        {sum(result.milliseconds.values()):.0f} ms: {_times(result)}"
    )
    views = {str(image0): result.features0, str(image1): result.features1}
    for path, features in views.items():
        if not len(features):
            console.print(f"{one_line(path)}: no keypoints", markup=False)
    if facts["output"]:
        kind = "picture" if picture else "written to"
        console.print(f"{kind:12}{one_line(facts['output'])}", markup=False)
    return 0


def _matches_as_lists(result: MatchResult) -> dict[str, Any]:
    """Points in pixels and scores of all matches, as plain values."""
    matches = result.matches
    return {
        "points0": np.round(matches.points0.astype(float), 3).tolist(),
        "points1": np.round(matches.points1.astype(float), 3).tolist(),
        "scores": np.round(matches.scores.astype(float), 4).tolist(),
    }


def _masked(session: Session, image0: Path, image1: Path, masks: Path) -> MatchResult:
    """Match two images where their masks are not 0."""
    paths = [mask_path(masks, image.name) for image in (image0, image1)]
    if not any(path.exists() for path in paths):
        raise UsageError(f"--masks: neither {paths[0]} nor {paths[1]} exists")
    features, watch = [], Stopwatch()
    for image, path in zip((image0, image1), paths, strict=True):
        with watch.stage("read"):
            gray, mask = read_masked(image, path)
        features.append(session.extract(gray, watch, mask))
    return session.match(features[0], features[1], watch)


def summarize(result: MatchResult) -> dict[str, Any]:
    """Counts and times of a result, as plain values."""
    try:
        inliers = result.fundamental(INLIER_THRESHOLD).num_inliers
    except EstimationError:
        inliers = 0
    # Few wrong matches show a rotation and a scale, too.
    found = result.search if inliers else None
    return {
        "keypoints0": len(result.features0),
        "keypoints1": len(result.features1),
        "matches": len(result.matches),
        "refined": int(result.matches.refined.sum()),
        "inliers": inliers,
        "search": dataclasses.asdict(found) if found else None,
        "milliseconds": {name: round(ms, 3) for name, ms in result.milliseconds.items()},
    }


def _reduction(session: Session, result: MatchResult) -> str:
    """The line that names images which are reduced to the working size; empty without."""
    sizes = []
    for features in (result.features0, result.features1):
        reduced = working_size(features.image_size, session.processing)
        if reduced != features.image_size and not session.processing.resize:
            (width, height), (small, low) = features.image_size, reduced
            sizes.append(f"{width}×{height} reduced to {small}×{low}")
    return (
        f"size        {', '.join(dict.fromkeys(sizes))} (--tiles: full detail)\n" if sizes else ""
    )


def _inliers(facts: Mapping[str, Any]) -> str:
    if facts["matches"] == 0:
        return "0: there are no matches"
    if facts["inliers"] == 0:
        return "no consistent geometry: the images may show different scenes"
    return f"{facts['inliers']} of the epipolar geometry at {INLIER_THRESHOLD:g} px"


def _times(result: MatchResult) -> str:
    return ", ".join(f"{stage} {ms:.1f}" for stage, ms in result.milliseconds.items())


def _caption(result: MatchResult) -> list[str]:
    return [
        f"keypoints {len(result.features0)} : {len(result.features1)}",
        f"matches {len(result.matches)}",
    ]


def _match_many(
    session: Session,
    pairs: list[Pair],
    source: Path,
    masks: Path | None,
    folder: Path,
    viz: bool,
    overwrite: bool,
    json_file: str | None,
) -> int:
    rows: list[dict[str, Any]] = []
    num_skipped, num_failed, start = 0, 0, time.perf_counter()
    outcomes = match_pairs(
        session, pairs, source, folder, masks=masks, pictures=viz, overwrite=overwrite
    )
    with ProgressDisplay("matching", len(pairs), unit="pairs") as progress:
        for outcome in progress.track(outcomes):
            if outcome.error:
                num_failed += 1
                progress.print(f"skipped: {outcome.error}")
            elif outcome.result is None:
                num_skipped += 1
            if json_file is not None:
                rows.append(_row(outcome))
    save_json({"pairs": rows, "failed": num_failed, "output": str(folder)}, json_file)
    if json_file != STANDARD_OUTPUT:
        done = len(pairs) - num_skipped - num_failed
        skipped = f", {num_skipped} already done" if num_skipped else ""
        failed = f", {num_failed} failed" if num_failed else ""
        seconds = time.perf_counter() - start
        console.print(
            f"matched {counted(done, 'pair')} in {seconds:.1f} s{skipped}{failed}: {folder}",
            markup=False,
        )
    return 1 if num_failed else 0


def _row(outcome: PairOutcome) -> dict[str, Any]:
    pair = outcome.pair
    row: dict[str, Any] = {"image0": pair.name0, "image1": pair.name1}
    if outcome.error:
        return row | {"error": outcome.error}
    row["output"] = str(outcome.output)
    if outcome.result is None:
        return row | {"skipped": True}
    return row | summarize(outcome.result)
