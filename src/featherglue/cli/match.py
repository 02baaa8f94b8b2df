"""`featherglue match`: two images, a list of pairs, or a folder of frames."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from featherglue.cli.common import Json, Model, console, error_console, print_json
from featherglue.cli.session_options import with_session_options
from featherglue.collection.pair_matching import PairOutcome, match_pairs, sequence_pairs
from featherglue.drawing import draw_matches
from featherglue.errors import EstimationError, UsageError
from featherglue.io.files import write_image
from featherglue.io.pairs import Pair, read_pairs
from featherglue.options import SessionOptions
from featherglue.session import Session, load
from featherglue.types import MatchResult

INLIER_THRESHOLD = 2.0


@with_session_options
def match(
    image0: Annotated[
        Path | None, typer.Argument(help="First image, or a folder of frames.")
    ] = None,
    image1: Annotated[Path | None, typer.Argument(help="Second image.")] = None,
    input_pairs: Annotated[
        Path | None, typer.Option("--input-pairs", help="List of pairs, one a line.")
    ] = None,
    input_dir: Annotated[
        Path | None, typer.Option("--input-dir", help="Folder that the list's paths start from.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Picture of two images, or folder for many pairs."),
    ] = None,
    model: Model = "fast",
    no_viz: Annotated[bool, typer.Option("--no-viz", help="Write no pictures.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Match pairs again whose result is there.")
    ] = False,
    as_json: Json = False,
    *,
    options: SessionOptions,
) -> int:
    """Match two images, the pairs of a list, or the frames of a folder in sequence."""
    pairs, source = _work(image0, image1, input_pairs, input_dir)
    if pairs is None and overwrite:
        raise UsageError("--overwrite is for many pairs; the picture of two images is always new")
    if pairs is None and output is not None and not cv2.haveImageWriter(output.name):
        raise UsageError(f"-o {output}: no picture format has this suffix; use .png or .jpg")
    session = load(model, options)
    if pairs is None:
        assert image0 is not None and image1 is not None
        return _match_two(session, image0, image1, output, no_viz, as_json)
    folder = output or Path("featherglue_matches")
    return _match_many(session, pairs, source, folder, not no_viz, overwrite, as_json)


def _work(
    image0: Path | None, image1: Path | None, input_pairs: Path | None, input_dir: Path | None
) -> tuple[list[Pair] | None, Path]:
    """The pairs to match and the folder that they start from; None for two single images."""
    if input_pairs is not None:
        if image0 is not None:
            raise UsageError("give two images or --input-pairs, not both")
        folder = input_dir or Path()
        if not folder.is_dir():
            raise UsageError(f"--input-dir: no folder {folder}")
        return read_pairs(input_pairs), folder
    if input_dir is not None:
        raise UsageError("--input-dir is where the paths of --input-pairs start; it needs a list")
    if image0 is None:
        raise UsageError("nothing to match: give two images, a folder, or --input-pairs")
    if image1 is not None:
        return None, Path()
    if image0.is_dir():
        return sequence_pairs(image0), image0
    if not image0.exists():
        raise UsageError(f"{image0}: no such file or folder")
    raise UsageError(f"{image0}: a second image is needed, or a folder of frames")


def _match_two(
    session: Session, image0: Path, image1: Path, output: Path | None, no_viz: bool, as_json: bool
) -> int:
    if output is not None and no_viz:
        raise UsageError("-o names the picture; it cannot go with --no-viz")
    result = session(image0, image1)
    picture: Path | None = None
    if not no_viz:
        picture = output or Path(f"{image0.stem}_{image1.stem}_matches.png")
        write_image(picture, draw_matches(result, lines=_caption(result)))
    facts = summarize(result)
    facts["image0"], facts["image1"] = str(image0), str(image1)
    facts["picture"] = str(picture) if picture else None
    if as_json:
        print_json(facts)
        return 0
    console.print(
        f"keypoints   {facts['keypoints0']} and {facts['keypoints1']}\n"
        f"matches     {facts['matches']} ({facts['refined']} refined to a fraction of a pixel)\n"
        f"inliers     {facts['inliers']} (epipolar geometry, {INLIER_THRESHOLD:g} px)\n"
        f"time        {sum(result.milliseconds.values()):.0f} ms: {_times(result)}"
    )
    if picture:
        console.print(f"picture     {picture}", markup=False)
    return 0


def summarize(result: MatchResult) -> dict[str, Any]:
    """The numbers of a result, as plain values."""
    try:
        inliers = result.fundamental(INLIER_THRESHOLD).num_inliers
    except EstimationError:
        inliers = 0
    return {
        "keypoints0": len(result.features0),
        "keypoints1": len(result.features1),
        "matches": len(result.matches),
        "refined": int(result.matches.refined.sum()),
        "inliers": inliers,
        "milliseconds": {name: round(ms, 3) for name, ms in result.milliseconds.items()},
    }


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
    folder: Path,
    pictures: bool,
    overwrite: bool,
    as_json: bool,
) -> int:
    rows: list[dict[str, Any]] = []
    skipped, failed, start = 0, 0, time.perf_counter()
    columns = (TextColumn("matching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    outcomes = match_pairs(session, pairs, source, folder, pictures=pictures, overwrite=overwrite)
    with Progress(*columns, console=error_console, disable=not error_console.is_terminal) as bar:
        for outcome in bar.track(outcomes, total=len(pairs)):
            if outcome.error:
                failed += 1
                error_console.print(f"skipped: {outcome.error}", markup=False)
            elif outcome.result is None:
                skipped += 1
            if as_json:
                rows.append(_row(outcome))
    done = len(pairs) - skipped - failed
    if as_json:
        print_json({"pairs": rows, "failed": failed, "output": str(folder)})
    else:
        there = f", {skipped} were there already" if skipped else ""
        bad = f", {failed} failed" if failed else ""
        spent = time.perf_counter() - start
        console.print(f"matched {done} pairs in {spent:.1f} s{there}{bad}: {folder}", markup=False)
    return 1 if failed else 0


def _row(outcome: PairOutcome) -> dict[str, Any]:
    pair = outcome.pair
    row: dict[str, Any] = {"image0": pair.name0, "image1": pair.name1}
    if outcome.error:
        return row | {"error": outcome.error}
    row["output"] = str(outcome.output)
    if outcome.result is None:
        return row | {"skipped": True}
    return row | summarize(outcome.result)
