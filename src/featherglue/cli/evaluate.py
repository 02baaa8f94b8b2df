"""`featherglue evaluate`: accuracy of a model on image pairs with a known relation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from featherglue.cli.common import (
    STANDARD_OUTPUT,
    error_console,
    one_line,
    print_table,
    save_csv,
    save_json,
)
from featherglue.cli.evaluate_options import SharedOptions, command_line, with_shared_options
from featherglue.cli.progress import ProgressDisplay
from featherglue.errors import counted
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
    help="Measure accuracy on image pairs with known geometry. A failed pair counts as wrong.",
)
Images = Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder of the images.")]


@evaluate_app.command("homography")
@with_shared_options
def homography(
    context: typer.Context,
    images: Images,
    pair_file: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            metavar="FILE",
            help="Lines `image h00 … h22`, H for 640×480. Without it, homographies are drawn.",
        ),
    ] = None,
    photometric: Annotated[
        bool,
        typer.Option(
            "--photometric/--no-photometric", help="Photometric change of the second image."
        ),
    ] = True,
    *,
    shared: SharedOptions,
) -> int:
    """Images at 640×480 and their copies warped by homographies."""
    suite = HomographySuite(
        folder=images,
        pair_file=pair_file,
        photometric=photometric,
        config=HomographyConfig(seed=shared.seed),
    )
    return _evaluate(context, suite, shared)


@evaluate_app.command("hpatches")
@with_shared_options
def hpatches(context: typer.Context, images: Images, *, shared: SharedOptions) -> int:
    """HPatches: folders i_* and v_* with 1.ppm … 6.ppm and H_1_2 … H_1_6."""
    suite = HPatchesSuite(folder=images, config=HomographyConfig(seed=shared.seed))
    return _evaluate(context, suite, shared)


@evaluate_app.command("pose")
@with_shared_options
def pose(
    context: typer.Context,
    images: Images,
    pair_file: Annotated[
        Path,
        typer.Option("--pairs", metavar="FILE", help="Lines `A B rotA rotB K0×9 K1×9 T_0to1×16`."),
    ],
    *,
    shared: SharedOptions,
) -> int:
    """Photographs from calibrated cameras at known poses (ScanNet, YFCC, your own)."""
    suite = PoseSuite(folder=images, pair_file=pair_file, config=PoseConfig(seed=shared.seed))
    return _evaluate(context, suite, shared)


def _evaluate(context: typer.Context, suite: Suite[Any, Any], shared: SharedOptions) -> int:
    shared.check()
    session = shared.session()
    with ProgressDisplay("evaluating", unit="pairs") as display:
        evaluation = evaluate(
            session,
            suite,
            jobs=shared.jobs,
            num_pairs=shared.num_pairs,
            num_examples=shared.num_examples if shared.writes_report_data else 0,
            cache=shared.cache,
            progress=lambda done, total: display.update(done, total=total),
        )
    evaluation = dataclasses.replace(evaluation, command=command_line(context))
    if STANDARD_OUTPUT not in (shared.json_file, shared.csv_file):
        _print_summary(evaluation)
    save_json(evaluation.to_dict(), shared.json_file)
    save_csv(evaluation.rows(), shared.csv_file)
    if shared.num_worst:
        _draw_worst(session, suite, evaluation, shared)
    return _report_unreadable(evaluation)


def _print_summary(evaluation: Evaluation) -> None:
    summary = evaluation.summary
    head, rows = evaluation.main_table()
    title = f"{evaluation.model['name']} on {evaluation.suite}: {summary['failures']} of "
    title += f"{summary['pairs']} pairs failed. AUC, precision and recall in %."
    print_table(head, rows, title)


def _draw_worst(
    session: SessionOpener, suite: Suite[Any, Any], evaluation: Evaluation, shared: SharedOptions
) -> None:
    folder = shared.worst_dir or Path("featherglue_worst")
    pictures = draw_worst(session, suite, evaluation, shared.num_worst, folder, cache=shared.cache)
    error_console.print(
        f"{len(pictures)} pictures of the worst pairs: {one_line(str(folder))}", markup=False
    )


def _report_unreadable(evaluation: Evaluation) -> int:
    """Print the images that cannot be read; the exit code is 1 if there are any."""
    unreadable = [result for result in evaluation.results if result.unreadable]
    for result in unreadable:
        error_console.print(f"failed: {one_line(result.failure)}", markup=False)
    if unreadable:
        error_console.print(
            f"{counted(len(unreadable), 'pair')} could not be read: counted as failed", markup=False
        )
    return 1 if unreadable else 0
