"""Benchmarks: structure, stages and errors; never a time."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from featherglue.benchmarking import (
    BenchmarkConfig,
    BenchmarkResult,
    BenchmarkRow,
    Contender,
    Timing,
    benchmark,
    cold_start,
    draw_frames,
    summarize,
)
from featherglue.cli import main
from featherglue.errors import FeatherglueError, UsageError
from featherglue.options import SessionOptions

QUICK = BenchmarkConfig(image_sizes=((160, 120),), repetitions=3, warmup=1, cold=False)


def test_rows_hold_stages_and_totals() -> None:
    contenders = [
        Contender(label=kind, options=SessionOptions(features=kind, matcher="nn", max_keypoints=64))
        for kind in ("sift", "orb")
    ]
    ticks = []
    measured = benchmark(contenders, QUICK, progress=lambda: ticks.append(1))
    assert [row.label for row in measured.rows] == ["sift", "orb"]
    assert len(ticks) == QUICK.repetitions + QUICK.warmup
    for row in measured.rows:
        assert {"extractor", "matcher"} <= set(row.stages)
        parts = sum(timing.median_ms for name, timing in row.stages.items() if name != "read")
        # A median of three is reached twice: their sum is at most 1.5 times the slowest whole.
        assert 0 < parts < 2 * row.end_to_end.p95_ms
        assert row.end_to_end.p95_ms >= row.end_to_end.median_ms
        assert row.frames_per_second == pytest.approx(1e3 / row.end_to_end.median_ms, rel=0.01)
        assert max(row.keypoints) <= 64
        assert row.parameters is row.cold_start_ms is None
    assert measured.machine["cores"] >= 1


def test_the_result_as_json() -> None:
    row = BenchmarkRow(
        label="x",
        model="fast",
        runtime="auto",
        features="superpoint",
        matcher=None,
        max_keypoints=512,
        threads=None,
        image_size=(160, 120),
        keypoints=(30, 31),
        matches=20,
        stages={"read": Timing(median_ms=1.0, p95_ms=2.0)},
        end_to_end=Timing(median_ms=4.0, p95_ms=5.0),
        frames_per_second=250.0,
        cold_start_ms=300.0,
        peak_bytes=1000,
    )
    result = BenchmarkResult(
        rows=(row,), repetitions=3, warmup=1, machine={"cores": 2}, version="1.0"
    )
    values = result.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert list(values) == [
        "format_version",
        "kind",
        "image_size",
        "repetitions",
        "warmup",
        "machine",
        "featherglue",
        "rows",
    ]
    assert (values["kind"], values["featherglue"]) == ("benchmark", "1.0")
    assert values["image_size"] == values["rows"][0]["image_size"] == [160, 120]
    assert values["rows"][0] == {
        "label": "x",
        "model": "fast",
        "runtime": "auto",
        "features": "superpoint",
        "matcher": None,
        "max_keypoints": 512,
        "threads": None,
        "image_size": [160, 120],
        "keypoints": [30, 31],
        "matches": 20,
        "stages": {"read": {"median_ms": 1.0, "p95_ms": 2.0}},
        "end_to_end": {"median_ms": 4.0, "p95_ms": 5.0},
        "frames_per_second": 250.0,
        "cold_start_ms": 300.0,
        "peak_bytes": 1000,
    }


def test_drawn_frames_can_be_matched() -> None:
    first, second = draw_frames((320, 240))
    assert first.shape == second.shape == (240, 320)
    np.testing.assert_array_equal(first[:-3, 6:], second[3:, :-6])
    assert not np.array_equal(first, second)


def test_summary_is_median_and_95th_percentile() -> None:
    assert summarize([3.0, 1.0, 2.0]) == Timing(median_ms=2.0, p95_ms=2.9)


def test_every_size_is_measured() -> None:
    contenders = [
        Contender(
            label="orb", options=SessionOptions(features="orb", matcher="nn", max_keypoints=32)
        )
    ]
    config = BenchmarkConfig(
        image_sizes=((160, 120), (200, 160)), repetitions=1, warmup=0, cold=False
    )
    rows = benchmark(contenders, config).rows
    assert [row.image_size for row in rows] == [(160, 120), (200, 160)]
    assert all(row.stages["read"].median_ms > 0 for row in rows)


def test_settings_out_of_range_are_rejected() -> None:
    with pytest.raises(UsageError):
        benchmark([], QUICK)
    with pytest.raises(UsageError):
        BenchmarkConfig(repetitions=0)


def test_cold_start_of_a_broken_contender_says_why(tmp_path: Path) -> None:
    with pytest.raises(FeatherglueError, match="no such file"):
        contender = Contender(label="x", options=SessionOptions(features="sift", matcher="nn"))
        cold_start(contender, [tmp_path / "a.jpg", tmp_path / "b.jpg"], repetitions=1)


def test_command_writes_json(tmp_path: Path, matching: Path) -> None:
    output = tmp_path / "result.json"
    arguments = ["benchmark", "--model", str(matching), "--image-size", "160", "120"]
    arguments += ["--max-keypoints", "32,64", "--num-repetitions", "2", "--num-warmup", "0"]
    arguments += ["--no-cold", "--json", str(output), "--plot", str(tmp_path / "latency.png")]
    assert main(arguments) == 0
    measured = json.loads(output.read_text())
    assert len(measured["rows"]) == 2 * 3
    assert measured["stages"] == measured["rows"][0]["stages"]
    assert {"extractor", "decode"} <= set(measured["stages"])
    assert measured["rows"][0]["parameters"] > 0
    assert measured["command"] == shlex.join(["featherglue", *arguments])
    assert (tmp_path / "latency.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "extra", [["--max-keypoints", "many"], ["--runtime", "tensorrt"], ["--image-size", "640"]]
)
def test_usage_error_has_exit_code_2(extra: list[str]) -> None:
    assert main(["benchmark", *extra]) == 2


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["benchmark", "--image-size", "160", "120", "--max-keypoints", "32"]
    assert main([*arguments, "--num-repetitions", "1", "--num-warmup", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= 80  # the first line names the processor
    assert {"ms", "p95", "frames/s", "MiB", "fast", "sift+nn"} <= set(" ".join(lines).split())


def test_json_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["benchmark", "--image-size", "160", "120", "--max-keypoints", "32", "--no-cold"]
    arguments += ["--num-repetitions", "1", "--num-warmup", "0", "--json", "-"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "benchmark"


def test_a_contender_survives_json() -> None:
    options = SessionOptions(max_keypoints=64, resize=(320, 240), consensus=None)
    contender = Contender(label="x", model="balanced", options=options)
    assert Contender.from_json(contender.to_json()) == contender
