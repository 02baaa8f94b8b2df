"""Run the mutators for a long time: `make fuzz MINUTES=30`.

The mutators take turns; the next turn is that of the mutator with the smallest share of its goal.
Cases run in child processes with a limit of memory and of time. Where anything is wrong with the
cases of a turn, each of them runs again in a process of its own. A finding is an exception
that does not refuse the case properly, a crash, a hang, or too much memory. Its files, its case and
its traceback are written to a folder. Exit code 1 if there are findings.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

from hypothesis import HealthCheck, Phase, given, seed, settings
from mutators import all_mutators
from mutators.mutator import Mutator

TURN = 200  # cases of one run of hypothesis and of one process; the exit code counts refusals
_OK, _REFUSED, _FAULT = 0, 2, 3
_MAX_SAME = 3  # findings that are kept of one kind
_MB = 1_000_000
_WAITING = 10  # the limit of real time, as a multiple of that of processor time


@dataclass(kw_only=True)
class Tally:
    """Counts of one mutator.

    Attributes:
        turns: number of turns.
        cases, refused: number of cases, and of those that were refused.
        kinds: number of findings by kind.
    """

    turns: int = 0
    cases: int = 0
    refused: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def limit_process(limits: argparse.Namespace) -> None:
    """Limit the memory of the forked process, and keep its core and its messages away."""
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # Beyond the limit that is reported, so that a hungry case is caught before the machine suffers.
    most = virtual + 8 * limits.megabytes * _MB
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with Path(os.devnull).open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def run_case(mutator: Mutator, case: Any, folder: Path, limits: argparse.Namespace) -> int:
    """Run a case in the present process; the exit code is its outcome."""
    signal.setitimer(signal.ITIMER_PROF, limits.seconds)
    signal.alarm(_WAITING * limits.seconds)
    (folder / "files").mkdir()
    try:
        return _OK if mutator.run(case, folder / "files") else _REFUSED
    except BaseException:
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return _FAULT


def run_batch(mutator: Mutator, cases: list[Any], limits: argparse.Namespace) -> int | None:
    """Run cases in one child process. Returns how many were refused; None if any has a finding."""
    with tempfile.TemporaryDirectory(prefix="featherglue-fuzz-") as folder:
        process = os.fork()
        if process == 0:
            code = 255
            try:
                limit_process(limits)
                code = 0
                for i, case in enumerate(cases):
                    (Path(folder) / str(i)).mkdir()
                    outcome = run_case(mutator, case, Path(folder) / str(i), limits)
                    shutil.rmtree(Path(folder) / str(i), ignore_errors=True)
                    if outcome == _FAULT:
                        code = 255
                        break
                    code += outcome == _REFUSED
            finally:
                os._exit(code)
        _, status, usage = os.wait4(process, 0)
    sound = os.WIFEXITED(status) and os.WEXITSTATUS(status) <= len(cases)
    if not sound or usage.ru_maxrss * 1024 > limits.megabytes * _MB:
        return None
    return os.WEXITSTATUS(status)


def examine(mutator: Mutator, case: Any, folder: Path, limits: argparse.Namespace) -> tuple:
    """Run a case. Returns whether it was refused, its peak in MB, and the kind of the finding."""
    process = os.fork()
    if process == 0:
        code = _FAULT
        try:
            limit_process(limits)
            code = run_case(mutator, case, folder, limits)
        finally:
            os._exit(code)
    _, status, usage = os.wait4(process, 0)
    peak, kind = usage.ru_maxrss * 1024 // _MB, ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind = (
            "hang"
            if number in (signal.SIGALRM, signal.SIGPROF)
            else f"crash {signal.Signals(number).name}"
        )
    elif os.WEXITSTATUS(status) not in (_OK, _REFUSED):
        kind = _last_line(folder / "traceback.txt")
    elif peak > limits.megabytes:
        kind = f"memory above {limits.megabytes} MB"
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == _REFUSED, peak, kind


def _last_line(path: Path) -> str:
    """Type of the exception and the last line of code, which identify a kind of finding."""
    if not path.is_file():
        return "the process ended"
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    places = [line.strip() for line in lines if line.lstrip().startswith("File ")]
    return f"{lines[-1].partition(':')[0][:80]} in {places[-1] if places else '?'}"


def take_turn(mutator: Mutator, tally: Tally, limits: argparse.Namespace) -> None:
    """Generate and run the cases of one turn, and each alone if there is a finding among them."""
    cases: list[Any] = []

    @seed(limits.seed + tally.turns)
    @settings(
        max_examples=min(TURN, limits.cases - tally.cases),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=mutator.cases)
    def generate(case: Any) -> None:
        cases.append(case)

    generate()
    tally.turns += 1
    refused = run_batch(mutator, cases, limits)
    if refused is not None:
        tally.cases += len(cases)
        tally.refused += refused
        return
    for case in cases:
        folder = Path(tempfile.mkdtemp(prefix="featherglue-fuzz-"))
        try:
            was_refused, peak, kind = examine(mutator, case, folder, limits)
            tally.cases += 1
            tally.refused += was_refused
            if kind:
                tally.kinds[kind] += 1
                _keep(mutator, case, folder, f"{kind}, {peak} MB", tally, limits)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def fuzz(
    mutators: Sequence[Mutator], tallies: Mapping[str, Tally], limits: argparse.Namespace
) -> None:
    """Let the mutators take turns until the time is over or each has `limits.cases` cases."""
    until = time.monotonic() + limits.minutes * 60
    while time.monotonic() < until:
        waiting = [m for m in mutators if tallies[m.name].cases < limits.cases]
        if not waiting:
            return
        mutator = min(waiting, key=lambda m: tallies[m.name].cases / m.goal)
        take_turn(mutator, tallies[mutator.name], limits)


def _keep(
    mutator: Mutator, case: Any, folder: Path, kind: str, tally: Tally, limits: argparse.Namespace
) -> None:
    (number,) = [tally.kinds[name] for name in tally.kinds if kind.startswith(f"{name}, ")]
    if number > _MAX_SAME:
        return
    print(f"{mutator.name}: {kind}", flush=True)
    target = limits.output / f"{mutator.name}-{tally.cases}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    (target / "case.txt").write_text(f"{kind}\n{case!r}\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mutators to run; all by default")
    parser.add_argument("--minutes", type=float, default=30, help="time for all of them together")
    parser.add_argument("--cases", type=int, default=10**9, help="maximum number for each mutator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=int, default=600, help="limit of memory of one case")
    parser.add_argument(
        "--seconds", type=int, default=20, help="limit of processor time of one case"
    )
    parser.add_argument("--output", type=Path, default=Path("fuzz"), help="folder of the findings")
    options = parser.parse_args()
    mutators = all_mutators()
    unknown = set(options.names) - {mutator.name for mutator in mutators}
    if unknown:
        parser.error(f"no mutator {sorted(unknown)}; there are {[m.name for m in mutators]}")
    chosen = [m for m in mutators if not options.names or m.name in options.names]
    gc.freeze()
    tallies = {mutator.name: Tally() for mutator in chosen}
    with suppress(KeyboardInterrupt):
        fuzz(chosen, tallies, options)
    found = 0
    print(f"{'mutator':20}{'goal':>8}{'cases':>8}{'refused':>9}{'findings':>10}")
    for mutator in chosen:
        tally = tallies[mutator.name]
        total = sum(tally.kinds.values())
        found += total
        counts = f"{mutator.goal:8}{tally.cases:8}{tally.refused:9}{total:10}"
        print(f"{mutator.name:20}{counts}")
        for kind, number in tally.kinds.most_common():
            print(f"    {number} × {kind}")
    print(f"{found} findings" + (f" in {options.output}" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
