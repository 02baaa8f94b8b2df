"""`featherglue benchmark`: latency, throughput, memory and cold start on this machine."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from featherglue.benchmarking import BenchmarkConfig, BenchmarkResult, Contender, benchmark
from featherglue.cli.common import (
    STANDARD_OUTPUT,
    CsvFile,
    JsonFile,
    Threads,
    limit_threads,
    print_table,
    save_csv,
    save_json,
)
from featherglue.cli.progress import ProgressDisplay
from featherglue.cli.session_options import parse_resize
from featherglue.errors import UsageError
from featherglue.io.gray import Gray
from featherglue.io.image import list_images, read_gray
from featherglue.options import FeaturesKind, RuntimeName, SessionOptions

# The parser takes no list of a Literal.
_Runtime = Enum("_Runtime", [(name, name) for name in get_args(RuntimeName)])  # type: ignore[misc]
_BASELINES: tuple[FeaturesKind, ...] = ("sift", "orb")


def run(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME|DIR", help="Model; can be given several times."),
    ] = None,
    runtime: Annotated[
        list[_Runtime] | None,
        typer.Option(
            "--runtime",
            metavar="|".join(get_args(RuntimeName)),
            help="Runtime; can be given several times.",
        ),
    ] = None,
    image_size: Annotated[
        list[str] | None,
        typer.Option("--image-size", metavar="W H", help="Frame size; can be given several times."),
    ] = None,
    max_keypoints: Annotated[
        str,
        typer.Option(
            "--max-keypoints", metavar="N[,N…]", help="Maximum number of keypoints, one or several."
        ),
    ] = "512",
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="Folder whose first two images are the frames; without it, frames are drawn.",
        ),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--num-repetitions", min=1, help="Number of timed repetitions.")
    ] = 30,
    warmup: Annotated[
        int, typer.Option("--num-warmup", min=0, help="Number of repetitions before them.")
    ] = 5,
    threads: Threads = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Measure SIFT and ORB too.")
    ] = True,
    cold: Annotated[
        bool, typer.Option("--cold/--no-cold", help="Measure cold start and peak memory.")
    ] = True,
    json_file: JsonFile = None,
    csv_file: CsvFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw latency over keypoints (needs matplotlib)."
        ),
    ] = None,
) -> None:
    """Measure models, runtimes, SIFT and ORB side by side, each extracting a new frame and
    matching it with the previous one."""
    if json_file == csv_file == STANDARD_OUTPUT:
        raise UsageError("--json - and --csv - exclude each other: write one to a file")
    sizes = tuple(_size(text) for text in image_size or ["640,480"])
    if plot is not None:
        from featherglue.evaluation.plots import check_format, plot_latency

        check_format(plot)
    limit_threads(threads)
    contenders = make_contenders(
        model or ["fast"], _runtimes(runtime), _counts(max_keypoints), threads, baselines
    )
    config = BenchmarkConfig(image_sizes=sizes, repetitions=repetitions, warmup=warmup, cold=cold)
    frames = None if images is None else _frames(images)
    total = (repetitions + warmup) * len(sizes)
    with ProgressDisplay("measuring", total, unit="repetitions") as display:
        result = benchmark(contenders, config, frames, display.advance)
    if STANDARD_OUTPUT not in (json_file, csv_file):
        _print_summary(result)
    values = _json_values(result, context.obj)
    save_json(values, json_file)
    save_csv([_flat(row) for row in values["rows"]], csv_file)
    if plot is not None:
        plot_latency(values, plot)


def make_contenders(
    models: list[str],
    runtimes: list[RuntimeName],
    counts: list[int],
    threads: int | None,
    baselines: bool,
) -> list[Contender]:
    """Every model in every runtime, and the baselines, at every maximum number of keypoints."""
    found = []
    for count in counts:
        for model in models:
            for runtime in runtimes:
                name = Path(model).name if runtime == "auto" else f"{Path(model).name}, {runtime}"
                found.append(
                    Contender(
                        label=name,
                        model=model,
                        options=SessionOptions(
                            runtime=runtime,
                            max_keypoints=count,
                            threads=threads,
                        ),
                    )
                )
        if baselines:
            found.extend(
                Contender(
                    label=f"{kind}+nn",
                    options=SessionOptions(features=kind, matcher="nn", max_keypoints=count),
                )
                for kind in _BASELINES
            )
    return found


def _runtimes(given: list[_Runtime] | None) -> list[RuntimeName]:
    return [cast("RuntimeName", runtime.value) for runtime in given or []] or ["auto"]


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError(f"--max-keypoints takes integers of at least 1, as in 128,512: {text!r}")
    return counts


def _size(text: str) -> tuple[int, int]:
    size = parse_resize(text)
    if size is None or len(size) != 2:
        raise UsageError(f"--image-size takes W H, not {text!r}")
    return size[0], size[1]


def _frames(folder: Path) -> tuple[Gray, Gray]:
    paths = list_images(folder)
    if len(paths) < 2:
        raise UsageError(f"--images {folder}: two images are needed, found {len(paths)}")
    return read_gray(paths[0]), read_gray(paths[1])


def _print_summary(result: BenchmarkResult) -> None:
    """Print the main figures; a size that is equal in all rows is in the title only."""
    rows = result.rows
    sizes = list(dict.fromkeys(_dimensions(row.image_size) for row in rows))
    head = ["", *(["size"] if len(sizes) > 1 else []), "keypoints", "ms", "p95", "frames/s"]
    cold = rows[0].cold_start_ms is not None
    head += ["cold start", "MiB"] if cold else []
    lines = []
    for row in rows:
        line = [row.label, *([_dimensions(row.image_size)] if len(sizes) > 1 else [])]
        line += [str(row.max_keypoints)]
        line += [f"{row.end_to_end.median_ms:.1f}", f"{row.end_to_end.p95_ms:.1f}"]
        line += [f"{row.frames_per_second:.1f}"]
        if row.cold_start_ms is not None and row.peak_bytes is not None:
            line += [f"{row.cold_start_ms:.0f}", f"{row.peak_bytes / 2**20:.0f}"]
        lines.append(line)
    machine = f"{result.machine['processor']}, {result.machine['cores']} cores"
    measured = f"{' and '.join(sizes)}, medians in ms over {result.repetitions} repetitions"
    print_table(head, lines, f"{machine}\n{measured}")


def _dimensions(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _json_values(result: BenchmarkResult, arguments: list[str]) -> dict[str, Any]:
    """The content of `--json`: the result and the command line.

    The figures of the first contender are at the top too, for scripts that measure only one.
    """
    values = result.to_dict()
    values |= {key: values["rows"][0][key] for key in ("stages", "end_to_end")}
    return values | {"command": shlex.join(["featherglue", *arguments])}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with one value per column: times of stages as `<stage>_median_ms`, and so on."""
    flat = {name: value for name, value in row.items() if name not in ("stages", "end_to_end")}
    for name, times in {"end_to_end": row["end_to_end"], **row["stages"]}.items():
        flat |= {f"{name}_{statistic}": value for statistic, value in times.items()}
    return flat
