"""`featherglue evaluate`: how good a session is on pairs of images with a known relation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from featherglue.cli.common import console, error_console
from featherglue.cli.evaluate_options import SharedOptions, command_line, with_shared_options
from featherglue.evaluation.examples import draw_worst
from featherglue.evaluation.homography_suite import HomographyConfig, HomographySuite
from featherglue.evaluation.hpatches_suite import HPatchesSuite
from featherglue.evaluation.openers import SessionOpener
from featherglue.evaluation.pose_suite import PoseConfig, PoseSuite
from featherglue.evaluation.result import Evaluation
from featherglue.evaluation.runner import evaluate
from featherglue.evaluation.suites import Suite

evaluate_app = typer.Typer(
    no_args_is_help=True,
    help="Measure accuracy on image pairs with a known relation. A pair that fails counts.",
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the images.")]


@evaluate_app.command("homography")
@with_shared_options
def homography(
    context: typer.Context,
    folder: Folder,
    pair_file: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Lines `image h00 … h22`, for 640×480; without it homographies are drawn.",
        ),
    ] = None,
    no_photometric: Annotated[
        bool, typer.Option("--no-photometric", help="Leave the light of the second image alone.")
    ] = False,
    *,
    shared: SharedOptions,
) -> int:
    """Images, resized to 640×480, and copies of them warped by homographies."""
    suite = HomographySuite(
        folder=folder,
        pair_file=pair_file,
        photometric=not no_photometric,
        config=HomographyConfig(seed=shared.seed),
    )
    return _evaluate(context, suite, shared)


@evaluate_app.command("hpatches")
@with_shared_options
def hpatches(context: typer.Context, folder: Folder, *, shared: SharedOptions) -> int:
    """The sequences of HPatches: folders i_* and v_* with 1.ppm … 6.ppm and H_1_2 … H_1_6."""
    suite = HPatchesSuite(folder=folder, config=HomographyConfig(seed=shared.seed))
    return _evaluate(context, suite, shared)


@evaluate_app.command("pose")
@with_shared_options
def pose(
    context: typer.Context,
    folder: Folder,
    pair_file: Annotated[
        Path,
        typer.Option("--pairs", metavar="FILE", help="Lines `A B rotA rotB K0×9 K1×9 T_0to1×16`."),
    ],
    *,
    shared: SharedOptions,
) -> int:
    """Photographs from calibrated cameras at known poses (ScanNet, YFCC, your own)."""
    suite = PoseSuite(folder=folder, pair_file=pair_file, config=PoseConfig(seed=shared.seed))
    return _evaluate(context, suite, shared)


def _evaluate(context: typer.Context, suite: Suite[Any, Any], shared: SharedOptions) -> int:
    session = shared.session()
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console, disable=not error_console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        evaluation = evaluate(
            session,
            suite,
            jobs=shared.jobs,
            limit=shared.limit,
            cache=shared.cache,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    evaluation = dataclasses.replace(evaluation, command=command_line(context))
    console.print(evaluation.to_markdown(), markup=False)
    if shared.json_path is not None:
        evaluation.save(shared.json_path)
    if shared.csv_path is not None:
        evaluation.save_csv(shared.csv_path)
    if shared.worst:
        _draw(session, suite, evaluation, shared)
    return _report_failures(evaluation)


def _draw(
    session: SessionOpener, suite: Suite[Any, Any], evaluation: Evaluation, shared: SharedOptions
) -> None:
    pictures = draw_worst(
        session, suite, evaluation, shared.worst, shared.worst_dir, cache=shared.cache
    )
    console.print(f"{len(pictures)} pictures of the worst pairs: {shared.worst_dir}", markup=False)


def _report_failures(evaluation: Evaluation) -> int:
    """Name the images that could not be read; 1 if there are any."""
    unreadable = [result for result in evaluation.results if result.unreadable]
    for result in unreadable:
        error_console.print(f"failed: {result.failure}", markup=False)
    if unreadable:
        error_console.print(
            f"{len(unreadable)} pairs could not be read; they count as failures", markup=False
        )
    return 1 if unreadable else 0
