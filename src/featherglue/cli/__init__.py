"""The command line. Commands parse, call the library and print."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import featherglue
from featherglue.cli import (
    benchmark,
    compress,
    finetune,
    import_weights,
    info,
    match,
    prune,
    quantize,
    report,
    sensitivity,
    train,
    video,
)
from featherglue.cli.common import console, error_console, join_sizes
from featherglue.cli.evaluate import evaluate_app
from featherglue.errors import FeatherglueError

_INTERRUPTED = 130
app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Learned local feature matching in real time on an ordinary CPU.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"featherglue {featherglue.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Learned local feature matching in real time on an ordinary CPU."""


app.command("match")(match.match)
app.command("video")(video.video)
app.command("info")(info.info)
app.command("import-weights")(import_weights.import_weights)
app.add_typer(evaluate_app, name="evaluate")
app.command("benchmark")(benchmark.run)
app.command("export")(import_weights.export)
app.command("report")(report.report)
app.command("train")(train.train)
app.command("finetune")(finetune.finetune)
app.command("compress")(compress.compress)
app.command("prune")(prune.prune)
app.command("quantize")(quantize.quantize)
app.command("sensitivity")(sensitivity.sensitivity)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; errors become one line on standard error and an exit code.

    Exit codes: 0 success, 1 failure, 2 misuse, 130 interrupted. FEATHERGLUE_DEBUG=1 shows
    tracebacks.
    """
    arguments = join_sizes(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(arguments, standalone_mode=False, prog_name="featherglue")
        if code == _INTERRUPTED:
            error_console.print("stopped")
        return code if isinstance(code, int) else 0
    except typer.Exit as leave:
        return leave.exit_code
    except (typer.Abort, KeyboardInterrupt):
        error_console.print("stopped")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print an error and give its exit code."""
    if os.environ.get("FEATHERGLUE_DEBUG"):
        error_console.print_exception()
    if isinstance(error, FeatherglueError):
        error_console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # misuse, from the parser
        context = getattr(error, "ctx", None)
        if context is not None:
            error_console.print(context.get_usage(), markup=False, highlight=False)
        error_console.print(f"error: {error.format_message()}", markup=False, highlight=False)
        return int(error.exit_code)
    error_console.print(
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a mistake in featherglue; FEATHERGLUE_DEBUG=1 shows where.",
        markup=False,
        highlight=False,
    )
    return 1


def entry() -> None:
    """The console script."""
    sys.exit(main())
