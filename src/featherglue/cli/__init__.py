"""The command line. Commands parse, call the library and print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated

import typer

import featherglue
from featherglue.cli.common import console, error_console, join_sizes
from featherglue.errors import FeatherglueError

_INTERRUPTED = 130
# Each command's module and what it is there: a function, or an application of its own. Only what
# is asked for is imported, for reading and describing all of them takes longer than a match.
_COMMANDS = {
    "match": ("match", "match"),
    "video": ("video", "video"),
    "info": ("info", "info"),
    "import-weights": ("import_weights", "import_weights"),
    "evaluate": ("evaluate", "evaluate_app"),
    "benchmark": ("benchmark", "run"),
    "export": ("import_weights", "export"),
    "report": ("report", "report"),
    "train": ("train", "train"),
    "finetune": ("finetune", "finetune"),
    "compress": ("compress", "compress"),
    "prune": ("prune", "prune"),
    "quantize": ("quantize", "quantize"),
    "sensitivity": ("sensitivity", "sensitivity"),
}


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"featherglue {featherglue.__version__}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Learned local feature matching in real time on an ordinary CPU."""


def _application(names: Iterable[str]) -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        add_completion=False,
        help="Learned local feature matching in real time on an ordinary CPU.",
    )
    app.callback()(_common)
    for name in names:
        module, attribute = _COMMANDS[name]
        command = getattr(import_module(f"featherglue.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _wanted(arguments: list[str]) -> Iterable[str]:
    """The command that is called; all of them where none is known, for help and for its error."""
    called = arguments[0] if arguments else ""
    return [called] if called in _COMMANDS else _COMMANDS


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; errors become one line on standard error and an exit code.

    Exit codes: 0 success, 1 failure, 2 misuse, 130 interrupted. FEATHERGLUE_DEBUG=1 shows
    tracebacks.
    """
    arguments = join_sizes(sys.argv[1:] if arguments is None else arguments)
    app: typer.Typer | None = None
    try:
        app = _application(_wanted(arguments))
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
        return _explain(error, app, arguments)


def _explain(error: Exception, app: typer.Typer | None, arguments: list[str]) -> int:
    """Print an error and return its exit code."""
    if os.environ.get("FEATHERGLUE_DEBUG"):
        error_console.print_exception()
    if isinstance(error, FeatherglueError):
        message = _with_flags(str(error), app, arguments)
        error_console.print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # misuse, from the parser
        message = error.format_message()
        if not message:  # nothing was asked for, and the help is shown
            return int(error.exit_code)
        context = getattr(error, "ctx", None)
        if context is not None:
            error_console.print(context.get_usage(), markup=False, highlight=False)
        error_console.print(f"error: {message}", markup=False, highlight=False)
        return int(error.exit_code)
    error_console.print(
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a mistake in featherglue; FEATHERGLUE_DEBUG=1 shows where.",
        markup=False,
        highlight=False,
    )
    return 1


def _with_flags(message: str, app: typer.Typer | None, arguments: list[str]) -> str:
    from featherglue.cli.parameter_names import option_flags, with_flags

    if app is None:
        return message
    return with_flags(message, option_flags(typer.main.get_command(app), arguments))


def entry() -> None:
    """The console script."""
    sys.exit(main())
