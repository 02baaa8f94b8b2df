"""The sensitivity scan in several processes: one scans each method, with its part of the cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import as_completed
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import cv2
import torch

from featherglue.errors import ResourceError
from featherglue.evaluation import HomographySuite
from featherglue.machine import num_cores
from featherglue.models.model import Model
from featherglue.processes import worker_pool
from featherglue.sensitivity.results import Method, Scan, read_scan
from studies.compression.scanning import CACHE_BYTES, ScanSettings, merge_into, run_scan


def run_scans(dense: Model, suite: HomographySuite, folder: Path, settings: ScanSettings) -> Scan:
    """Scan as `scanning.run_scan`, with a process for each method.

    A process writes to a folder of its own beside `folder`. At the end, and when the scan is
    stopped, the rows of all are merged into `folder`.

    Args:
        dense: the dense model, with folded batch normalization.
        suite: suite with the pairs.
        folder: folder of the scan; a scan in it is continued.
        settings: settings of the scan. The time limit is that of each process.

    Raises:
        UsageError: the folder contains a scan of another model or with other settings.
        ResourceError: a process was killed.
    """
    jobs = len(settings.levels)
    parts = {method: folder.with_name(f"{folder.name}-{method}") for method in settings.levels}
    for part in parts.values():
        merge_into(part, [read_scan(folder)])
    stop = multiprocessing.get_context("spawn").Event()
    try:
        with worker_pool("scan_jobs", jobs, _start, stop, jobs) as pool:
            futures = [
                pool.submit(_scan_part, dense, suite, part, _of_method(settings, method))
                for method, part in parts.items()
            ]
            try:
                for future in as_completed(futures):
                    future.result()
            finally:
                stop.set()  # after an error or Ctrl-C, the others end after their current score
    finally:
        found = merge_into(folder, [read_scan(part) for part in parts.values()])
    return found


def _of_method(settings: ScanSettings, method: Method) -> ScanSettings:
    levels: Mapping[Method, tuple[float, ...]] = {method: settings.levels[method]}
    return replace(settings, levels=levels)


_worker: list[tuple[Event, int]] = []  # of this process: whether to stop, and number of processes


def _start(stop: Event, jobs: int) -> None:
    threads = max(1, num_cores() // jobs)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    _worker.append((stop, jobs))


def _scan_part(dense: Model, suite: HomographySuite, folder: Path, settings: ScanSettings) -> None:
    run_scan(dense, suite, folder, settings, _report, cache_bytes=CACHE_BYTES // _worker[0][1])


def _report(text: str) -> None:
    """Print a line before the next score. Raises ResourceError to stop the scan."""
    if _worker[0][0].is_set():
        raise ResourceError("the scan was stopped")
    print(text, flush=True)
