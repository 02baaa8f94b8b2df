"""What the commands of this package share: options, errors, date and machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featherglue.errors import FeatherglueError
from featherglue.io.json import read_json
from featherglue.machine import describe_machine
from studies.compression.journal import today

HERE = Path("studies/compression")
# Sessions of the study show what the networks find: a search or guided matching would hide losses.
PLAIN: Mapping[str, Any] = {"search": "off", "guided_matching": False}


def new_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all commands but the main one share.

    Args:
        name: name of the module in this package. It names the file of the results, too.
        description: docstring of the module.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m studies.compression.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--val", type=Path, required=True, help="folder of the val images")
    add("--list", type=Path, required=True, help="list of the val images and homographies")
    add("--work", type=Path, default=Path(f"runs/{name}"), help="folder of the models")
    add("--output", type=Path, default=HERE / f"{name}.json", help="file of the results")
    return parser


def stored_results(path: Path) -> dict[str, Any]:
    """Return the results of an earlier run, or {} if there are none or they are damaged."""
    try:
        results: dict[str, Any] = read_json(path)
    except (OSError, ValueError):
        return {}
    return results


def date_and_machine() -> dict[str, Any]:
    """Return the `date` (UTC) and the `machine`, for results that are measured now."""
    return {"date": today(), "machine": describe_machine()}


def exit_code(run: Callable[[], object]) -> int:
    """Call a function and return the exit code. Errors are printed in one line."""
    try:
        run()
    except FeatherglueError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    return 0
