"""The files of a run and its CSV logs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from featherglue.errors import OutputError
from featherglue.io.files import atomic_write

LAST, BEST = "last.pt", "best.pt"
LOG, VALIDATION_LOG, CURVES = "log.csv", "validation.csv", "curves.png"


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Append a row to a CSV file. The first row also writes the header.

    Raises:
        OutputError: the file cannot be written.
    """
    is_new = not path.exists()
    try:
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
    except OSError as error:
        raise _write_error(path, error) from None


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read the rows of a CSV file. Incomplete rows are skipped; without a file there are none."""
    if not path.exists():
        return []
    rows: list[dict[str, float]] = []
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\0", "?")
    with suppress(csv.Error):  # a field of more than 128 KiB
        for row in csv.DictReader(io.StringIO(text, newline="")):
            with suppress(TypeError, ValueError):
                rows.append({key: float(value) for key, value in row.items()})
    return rows


def truncate_logs(folder: Path, step: int) -> None:
    """Remove the log rows after `step`, the step at which a run resumes.

    Raises:
        OutputError: a log cannot be written.
    """
    for path in (folder / LOG, folder / VALIDATION_LOG):
        try:
            _truncate(path, step)
        except OSError as error:
            raise _write_error(path, error) from None


def _truncate(path: Path, step: int) -> None:
    rows = read_rows(path)
    kept = [row for row in rows if row.get("step", 0) <= step]
    if not kept:
        path.unlink(missing_ok=True)
    elif len(kept) < len(rows):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, kept[0])
        writer.writeheader()
        writer.writerows({key: f"{row[key]:.6g}" for key in row} for row in kept)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())


def logged_seconds(folder: str | os.PathLike[str]) -> float:
    """Training time of the run in `folder` in seconds, over all resumptions."""
    rows = read_rows(Path(folder) / LOG)
    return rows[-1]["seconds"] if rows else 0.0


def _write_error(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}); free some space, "
        "then resume the run"
    )
