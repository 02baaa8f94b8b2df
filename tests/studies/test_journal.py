"""The journal of the reference study: finished steps are not repeated, damaged ones are."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featherglue.errors import StoredFileWarning, UsageError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from studies.compression.journal import Journal  # noqa: E402


def run(path: Path, called: list[str], stop_at: str = "") -> list[Any]:
    """Three steps; `stop_at` names one that is interrupted."""
    journal = Journal(path)

    def step(name: str, value: Any) -> Callable[[], Any]:
        def compute() -> Any:
            called.append(name)
            if name == stop_at:
                raise KeyboardInterrupt
            return value

        return compute

    values = {"made": {"auc": 50.5, "sizes": [1, 2]}, "measured": math.nan, "drawn": None}
    return [journal.step(name, {"a": 1}, step(name, value)) for name, value in values.items()]


def test_an_interrupted_study_continues(tmp_path: Path) -> None:
    path, called = tmp_path / "journal.json", list[str]()
    with pytest.raises(KeyboardInterrupt):
        run(path, called, "measured")
    first = run(path, called)
    assert called == ["made", "measured", "measured", "drawn"]
    assert str(run(path, called)) == str(first)
    assert len(called) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["journal.json"]


def test_a_damaged_step_is_repeated(tmp_path: Path) -> None:
    path, called = tmp_path / "journal.json", list[str]()
    first = run(path, called)
    path.write_text(path.read_text().replace("50.5", "58.5"))
    with pytest.warns(StoredFileWarning, match="damaged steps are repeated: made"):
        assert str(run(path, called)) == str(first)
    assert called == ["made", "measured", "drawn", "made"]


def test_journals_without_checksums_are_read(tmp_path: Path) -> None:
    path, called = tmp_path / "journal.json", list[str]()
    first = run(path, called)
    steps = json.loads(path.read_text())
    for step in steps.values():
        del step["checksum"]
    path.write_text(json.dumps(steps))
    assert str(run(path, called)) == str(first)
    assert len(called) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"key": 1}}', "{" * 2000])
def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal.json").write_text(text)
    with pytest.raises(UsageError, match=r"journal\.json: damaged .*remove it to start again"):
        Journal(tmp_path / "journal.json")
