"""The logs of a run."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
from torch import nn
from toy_training import CONFIG, Numbers, loss_of, network

from featherglue.errors import OutputError
from featherglue.train.engine.log_files import read_rows
from featherglue.train.engine.loop import train


def test_an_unwritable_log_or_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(OutputError, match=r"log\.csv: cannot be written"):
        train(network(), loss_of, Numbers(), CONFIG, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be created"):
        train(network(), loss_of, Numbers(), CONFIG, tmp_path / "file" / "run")


def test_a_resumed_run_appends_to_its_log(tmp_path: Path) -> None:
    rows: list[tuple[int, dict[str, float]]] = []
    for steps in (3, 8):
        config = dataclasses.replace(CONFIG, steps=steps)
        train(
            network(), loss_of, Numbers(), config, tmp_path, report=lambda s, r: rows.append((s, r))
        )
    with (tmp_path / "log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    assert [int(row["step"]) for row in log] == [3, 8] == [step for step, _ in rows]
    assert float(log[0]["seconds"]) <= float(log[1]["seconds"])
    for row, (_, reported) in zip(log, rows, strict=True):
        assert float(row["loss"]) == pytest.approx(reported["loss"], rel=1e-4)
        assert 0 <= reported["chance"] <= 1


def test_rows_after_the_checkpoint_are_removed(tmp_path: Path) -> None:
    def validate(average: nn.Module) -> dict[str, float]:
        return {"score": 1.0}

    config = dataclasses.replace(CONFIG, steps=3, validate_steps=3)
    train(network(), loss_of, Numbers(), config, tmp_path, validate=validate)
    for name in ("log.csv", "validation.csv"):
        path = tmp_path / name
        *rest, last = path.read_text().splitlines()
        later = ",".join(["5", *last.split(",")[1:]])
        path.write_text("\n".join([*rest, last, later, "6,0."]) + "\n")
    config = dataclasses.replace(config, steps=4)
    train(network(), loss_of, Numbers(), config, tmp_path)
    assert [row["step"] for row in read_rows(tmp_path / "log.csv")] == [3, 4]
    assert [row["step"] for row in read_rows(tmp_path / "validation.csv")] == [3]

    # A run that starts over keeps nothing of the previous one.
    (tmp_path / "last.pt").unlink()
    train(network(), loss_of, Numbers(), config, tmp_path)
    assert [row["step"] for row in read_rows(tmp_path / "log.csv")] == [4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "last.pt", "log.csv"]
