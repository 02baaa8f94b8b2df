"""The command line. A command parses its arguments, calls the library and prints."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer

import featherglue
from featherglue.cli.common import (
    console,
    error_console,
    join_sizes,
    one_line,
    one_line_warnings,
)
from featherglue.cli.outputs import CheckedCommand
from featherglue.errors import (
    FeatherglueError,
    ImageWarning,
    KernelsWarning,
    StoredFileWarning,
)
from featherglue.terminal import signals

_INTERRUPTED = 130
_HELP = frozenset({"-h", "--help"})
_COMPLETION_VARIABLE = "_FEATHERGLUE_COMPLETE"


class _Command(NamedTuple):
    """Where a command is defined, and the group that the help lists it in."""

    module: str
    attribute: str
    group: str


# Only the called command is imported: importing all of them takes longer than a match.
_COMMANDS = {
    "match": _Command("match", "match", "Match"),
    "video": _Command("video", "video", "Match"),
    "reconstruct": _Command("reconstruct", "reconstruct", "Collections"),
    "extract": _Command("extract", "extract", "Collections"),
    "pairs": _Command("pairs", "pairs", "Collections"),
    "vocabulary": _Command("vocabulary", "vocabulary", "Collections"),
    "adjust": _Command("adjust", "adjust", "Collections"),
    "export-colmap": _Command("export_colmap", "export_colmap", "Collections"),
    "evaluate": _Command("evaluate", "evaluate_app", "Measure"),
    "benchmark": _Command("benchmark", "run", "Measure"),
    "report": _Command("report", "report", "Measure"),
    "info": _Command("info", "info", "Models"),
    "export": _Command("export", "export", "Models"),
    "import-weights": _Command("import_weights", "import_weights", "Models"),
    "combine": _Command("combine", "combine", "Models"),
    "compress": _Command("compress", "compress", "Compress"),
    "prune": _Command("prune", "prune", "Compress"),
    "quantize": _Command("quantize", "quantize", "Compress"),
    "sensitivity": _Command("sensitivity", "sensitivity", "Compress"),
    "depth": _Command("depth", "depth", "Train"),
    "train": _Command("train", "train", "Train"),
    "finetune": _Command("finetune", "finetune", "Train"),
}


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"featherglue {featherglue.__version__}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Match images with learned local features, in real time on an ordinary CPU."""


def _application(names: Iterable[str]) -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        context_settings={"help_option_names": sorted(_HELP, key=len)},
        pretty_exceptions_enable=False,
        help="Match images with learned local features, in real time on an ordinary CPU.",
    )
    app.callback()(_common)
    for name in names:
        definition = _COMMANDS[name]
        module = import_module(f"featherglue.cli.{definition.module}")
        command = getattr(module, definition.attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=definition.group)
            for registered in command.registered_commands:
                registered.help = _help(registered.callback)
                registered.cls = CheckedCommand
        else:
            panel = definition.group
            add = app.command(name, cls=CheckedCommand, help=_help(command), rich_help_panel=panel)
            add(command)
    return app


def _narrow_help_columns() -> None:
    """Bring the columns of the help together, so that 80 characters hold the long option names."""
    from typer import rich_utils  # takes long to import

    rich_utils.STYLE_OPTIONS_TABLE_PADDING = (0, 1, 0, 0)  # type: ignore[assignment]


def _help(command: Callable[..., Any] | None) -> str:
    """The docstring of a command with each paragraph on one line, for the parser to wrap."""
    paragraphs = inspect.cleandoc((command and command.__doc__) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _called(arguments: Sequence[str]) -> Iterable[str]:
    """The name of the called command, or all names for the help and for an unknown command."""
    if _COMPLETION_VARIABLE in os.environ:
        arguments = _completed_words()
    called = arguments[0] if arguments else ""
    return [called] if called in _COMMANDS else _COMMANDS


def _completed_words() -> list[str]:
    """The words behind "featherglue" on the line that a shell asks to complete."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return line.split()[1:]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; an error is one line on standard error and an exit code.

    The environment variable FEATHERGLUE_DEBUG=1 shows tracebacks.

    Args:
        arguments: words after "featherglue"; None takes those of the process.

    Returns:
        The exit code: 0 success, 1 failure, 2 misuse, 130 interrupted.
    """
    signals.forget_signals()
    given = sys.argv[1:] if arguments is None else arguments
    arguments = join_sizes(given)
    app: typer.Typer | None = None
    try:
        if not _HELP.isdisjoint(arguments):
            _narrow_help_columns()
        app = _application(_called(arguments))
        with one_line_warnings(error_console, ImageWarning, KernelsWarning, StoredFileWarning):
            code = app(arguments, standalone_mode=False, prog_name="featherglue", obj=given)
        sys.stdout.flush()
        if code == _INTERRUPTED:
            return _interrupted()
        return code if isinstance(code, int) else 0
    except typer.Exit as finished:  # the help or the version was printed
        return _finish(finished.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:
        return _close_pipe()
    except Exception as error:
        if signals.exit_code() is not None:  # an import that a signal interrupts fails in many ways
            return _interrupted()
        return _explain(error, app, arguments)


def _finish(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _close_pipe()
    except FeatherglueError as error:
        return _explain(error, None, [])
    return code


def _close_pipe() -> int:
    """Discard the output that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _interrupted() -> int:
    _print_error(signals.message())
    return signals.exit_code() or _INTERRUPTED


def _print_error(text: str) -> None:
    """Print to standard error, which may be full or closed."""
    with suppress(OSError):
        error_console.print(text, markup=False, highlight=False, soft_wrap=True)


def _explain(error: Exception, app: typer.Typer | None, arguments: list[str]) -> int:
    """Print an error and return its exit code."""
    from featherglue.cli.error_messages import machine_fault, parser_message, with_option_flags

    if os.environ.get("FEATHERGLUE_DEBUG"):
        error_console.print_exception()
    command = None if app is None else typer.main.get_command(app)
    if isinstance(error, FeatherglueError):
        _print_error(f"error: {one_line(with_option_flags(str(error), command, arguments))}")
        return error.exit_code
    # Misuse that the parser found.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        message = parser_message(error, command, arguments)
        if not message:  # no command was given, and the help was shown
            return int(error.exit_code)
        context = getattr(error, "ctx", None)
        if context is not None:
            _print_error(context.get_usage())
        _print_error(f"error: {message}")
        return int(error.exit_code)
    reason = machine_fault(error)
    if reason:
        _print_error(f"error: {one_line(reason)}")
        return 1
    _print_error(
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a bug in featherglue; FEATHERGLUE_DEBUG=1 shows the traceback."
    )
    return 1
