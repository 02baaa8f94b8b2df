"""Estimated duration of a run, from the time of one pair on this machine.

The costs of the steps were measured in units of that time: the dense model extracts two images of
640×480 pixels and matches them, in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import featherglue
from featherglue.benchmarking.drawn_frames import draw_frames
from studies.compression.commands import PLAIN
from studies.compression.experiments import Experiment
from studies.compression.journal import format_duration

# Units of making a model: a constant, and a part for each calibration photograph.
_MAKING: Mapping[str, tuple[float, float]] = {
    "channel-fine-grained": (5, 4),
    "linear-8": (10, 13),
    "prune-kmeans-huffman": (30, 4),
    "macs-25": (5, 4),
    "macs-10": (5, 4),
    "macs-10-linear-8": (5, 6),
}
_OTHER_MAKING = (7.0, 0.0)
# Units of an evaluation of one pair; other models take 1.
_EVALUATION: Mapping[str, float] = {"macs-25": 0.25, "macs-10": 0.15, "macs-10-linear-8": 0.15}
_FRAME = {"torch": 3.0, "onnxruntime": 2.2, "openvino": 2.4}  # a frame and its match, 1 thread
_SPEED = 5.0  # a turn of Figure 3 with 512 keypoints, if the time were proportional to the number
_VARIANT_PAIR, _VARIANT_PHOTO = 1.7, 30.0  # an explanation
_SCAN_PAIR = 3.5
# The section on zeros: making the models, a turn of all frames and layers, a pair of all models.
_ZEROS, _ZEROS_TURN, _ZEROS_PAIR = 40.0, 30.0, 24.0
_STEP = 5.0  # a step of fine-tuning


@dataclass(frozen=True)
class Estimate:
    """A step that is left to do.

    Attributes:
        name: kind of step.
        units: duration in units of `unit_seconds`.
        seconds: duration in addition to that.
    """

    name: str
    units: float
    seconds: float = 0.0


def unit_seconds(model: Path, threads: int, size: tuple[int, int]) -> float:
    """Return the time of one pair of images in seconds, the median of three."""
    session = featherglue.load(str(model), threads=threads, **PLAIN)
    first, second = draw_frames(size)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        session(first, second)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def estimate(
    options: argparse.Namespace,
    left: Sequence[tuple[Experiment, str]],
    done: Container[str],
    num_pairs: int,
    num_models: int,
    num_explanations: int,
) -> list[Estimate]:
    """Return the estimated duration of the steps that are left.

    Args:
        options: options of the command line.
        left: experiments and their steps, "make", "tune" or "evaluate".
        done: names of finished steps of the journal.
        num_pairs: number of pairs of an evaluation.
        num_models: number of models whose latency is measured.
        num_explanations: number of variants that are left to explain failures.
    """
    found = [*_model_estimates(options, left, num_pairs)]
    if options.make_only:
        return found
    last = f"turn {options.num_repetitions} in openvino, latencies"
    if options.num_repetitions and last not in done:
        frames = num_models * (options.num_repetitions + 2) * sum(_FRAME.values())
        found.append(Estimate("measure latencies", frames))
    last = f"turn 1 with {options.keypoints[-1]} keypoints, Figure 3"
    if options.num_rounds and last not in done:
        turn = sum(_SPEED * n / 512 * (1 + n / 3000) for n in options.keypoints)
        found.append(Estimate("latency against keypoints", turn * (1 + options.num_rounds)))
    if num_explanations:
        variants = num_explanations * options.num_explanation_pairs * _VARIANT_PAIR
        units = variants + _VARIANT_PHOTO * options.num_calibration_images
        found.append(Estimate("explain failures", units))
    turns = options.num_sparsity_repetitions
    if turns and "accuracy, zeros" not in done:
        units = _ZEROS + _ZEROS_TURN * (turns + 1) + _ZEROS_PAIR * options.num_sparsity_pairs
        found.append(Estimate("what zeros gain", units))
    if options.scan_minutes:
        units = _SCAN_PAIR * options.num_scan_pairs
        found.append(Estimate("sensitivity scan", units, 60 * options.scan_minutes))
    return found


def _model_estimates(
    options: argparse.Namespace, left: Sequence[tuple[Experiment, str]], num_pairs: int
) -> list[Estimate]:
    """Return what it takes to make, fine-tune and evaluate models."""
    names = {"make": "make models", "tune": "fine-tune", "evaluate": "measure accuracy"}
    units, seconds = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for experiment, step in left:
        fixed, each = _MAKING.get(experiment.name, _OTHER_MAKING)
        if step == "evaluate":
            units[step] += num_pairs * _EVALUATION.get(experiment.name, 1.0) / options.jobs
        else:
            units[step] += fixed + each * options.num_calibration_images
        if step == "tune":
            seconds[step] += 60 * options.minutes
            units[step] += 0 if options.minutes else _STEP * options.steps
    return [Estimate(names[s], units[s], seconds[s]) for s in names if units[s] or seconds[s]]


def describe(estimates: Sequence[Estimate], unit: float) -> str:
    """Return the estimates as lines of text.

    Args:
        estimates: the steps.
        unit: result of `unit_seconds`.
    """
    lines = [f"estimated time ({unit:.2f} s for a pair of images):"]
    durations = [one.units * unit + one.seconds for one in estimates]
    for one, seconds in zip(estimates, durations, strict=True):
        lines.append(f"  {one.name}: {format_duration(seconds)}")
    return "\n".join([*lines, f"  total: {format_duration(sum(durations))}"])
