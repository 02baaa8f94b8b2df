"""`featherglue benchmark`: latency, throughput, memory and cold start on this machine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from featherglue.benchmarking import BenchmarkConfig, Contender, benchmark
from featherglue.cli.common import (
    Threads,
    console,
    error_console,
    limit_threads,
)
from featherglue.cli.session_options import parse_resize
from featherglue.errors import UsageError
from featherglue.io.files import write_json
from featherglue.io.image import read_grey
from featherglue.io.tables import format_table
from featherglue.options import checked

_BASELINES = ("sift", "orb")


def run(
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model; may be given several times.")
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="A runtime; may be given several times.")
    ] = None,
    image_size: Annotated[
        list[str] | None,
        typer.Option(
            "--image-size", metavar="W H", help="Size of the frames; may be given several times."
        ),
    ] = None,
    max_keypoints: Annotated[
        str, typer.Option("--max-keypoints", metavar="N[,N…]", help="Keypoints, one or several.")
    ] = "512",
    images: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--images", help="Two frames; drawn ones by default."),
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1)] = 30,
    warmup: Annotated[int, typer.Option("--warmup", min=0)] = 5,
    threads: Threads = None,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Leave SIFT and ORB out.")
    ] = False,
    no_cold: Annotated[
        bool, typer.Option("--no-cold", help="Measure no cold start and memory.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this file.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Latency over keypoints, as a picture (needs matplotlib)."),
    ] = None,
) -> None:
    """Measure models, runtimes, SIFT and ORB side by side: features of a new frame and its matches
    with the frame before."""
    sizes = tuple(_size(text) for text in image_size or ["640,480"])
    if plot is not None:
        from featherglue.evaluation.plots import check_format, plot_latency

        check_format(plot)
    limit_threads(threads)
    contenders = make_contenders(
        model or ["fast"], runtime or ["auto"], _counts(max_keypoints), threads, not no_baselines
    )
    config = BenchmarkConfig(
        image_sizes=sizes, repetitions=repetitions, warmup=warmup, cold=not no_cold
    )
    frames = (read_grey(images[0]), read_grey(images[1])) if images else None
    with Progress(console=error_console, disable=not error_console.is_terminal) as bar:
        task = bar.add_task("measuring", total=(repetitions + warmup) * len(sizes))
        measured = benchmark(contenders, config, frames, lambda: bar.advance(task))
    # One contender's figures at the top, for scripts that ask for one.
    measured |= {key: measured["rows"][0][key] for key in ("stages", "end_to_end")}
    measured["command"] = shlex.join(["featherglue", *sys.argv[1:]])
    for table in _tables(measured):
        console.print(table, markup=False)
    if json_file is not None:
        write_json(json_file, measured)
    if plot is not None:
        plot_latency(measured, plot)


def make_contenders(
    models: list[str], runtimes: list[str], counts: list[int], threads: int | None, baselines: bool
) -> list[Contender]:
    """Every model in every runtime at every number of keypoints, then the classical baselines."""
    for name in runtimes:
        checked("runtime", name)
    found = []
    for count in counts:
        for model in models:
            for runtime in runtimes:
                name = Path(model).name if runtime == "auto" else f"{Path(model).name}, {runtime}"
                found.append(
                    Contender(
                        label=name,
                        model=model,
                        runtime=runtime,
                        max_keypoints=count,
                        threads=threads,
                    )
                )
        if baselines:
            found.extend(
                Contender(label=f"{kind}+nn", features=kind, matcher="nn", max_keypoints=count)
                for kind in _BASELINES
            )
    return found


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError(f"--max-keypoints takes whole numbers from 1, as in 128,512: {text!r}")
    return counts


def _size(text: str) -> tuple[int, int]:
    size = parse_resize(text)
    if size is None or len(size) != 2:
        raise UsageError(f"--image-size takes W H, not {text!r}")
    return size[0], size[1]


def _tables(measured: dict[str, Any]) -> list[str]:
    """What was measured, as text: the whole, then its stages."""
    machine, rows = measured["machine"], measured["rows"]
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))
    whole, parts = [], []
    for row in rows:
        width, height = row["image_size"]
        total = row["end_to_end"]
        name = [row["label"], f"{width}×{height}", str(row["max_keypoints"])]
        cold = ["", ""]
        if "cold_start_ms" in row:
            cold = [f"{row['cold_start_ms']:.0f}", f"{row['peak_bytes'] / 2**20:.0f}"]
        whole.append(
            [
                *name,
                f"{total['median_ms']:.1f}",
                f"{total['p95_ms']:.1f}",
                f"{row['frames_per_second']:.1f}",
                *cold,
            ]
        )
        times = [row["stages"].get(stage) for stage in stages]
        parts.append([*name, *(f"{t['median_ms']:.2f}" if t else "" for t in times)])
    first = ["", "size", "keypoints"]
    return [
        f"{machine['processor']}, {machine['cores']} cores: medians in ms over "
        f"{measured['repetitions']} repetitions",
        format_table([*first, "ms", "p95", "frames/s", "cold start", "MiB"], whole),
        "",
        format_table([*first, *stages], parts),
    ]
