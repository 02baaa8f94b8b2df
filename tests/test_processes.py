"""Worker processes: they end with their parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from featherglue.errors import ResourceError, UsageError
from featherglue.machine import max_threads
from featherglue.processes import check_num_workers, starting_workers, worker_pool

_PARENT = """
import os, signal, sys
from featherglue.processes import prepare_worker
import multiprocessing

def work(fork):
    prepare_worker()
    print(os.getpid(), flush=True)
    signal.pause()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    for _ in range(2):
        context.Process(target=work, args=(0,)).start()
    signal.pause()
"""


def wait_until_ended(pids: list[int], seconds: float = 10.0) -> list[int]:
    """Wait for processes to end; returns those that still run."""
    left = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if not select.select([descriptor], [], [], seconds)[0]:
            left.append(pid)
        os.close(descriptor)
    return left


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(method: str, number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    command = [sys.executable, str(script), method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(number)
        parent.wait(timeout=60)
    assert wait_until_ended(workers) == []


def _end(code: int) -> None:
    os._exit(code)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "message"), [(2, "memory: use fewer `jobs`$"), (1, "memory$")])
def test_the_error_of_a_worker_that_dies_advises_what_can_help(count: int, message: str) -> None:
    with (
        pytest.raises(ResourceError, match=message),
        worker_pool("jobs", count, check_num_workers, "jobs", 1) as pool,
    ):
        pool.submit(_end, 1).result()


@pytest.mark.parametrize("count", [0, max_threads() + 1, 10**9])
def test_numbers_of_processes_are_bounded_by_the_machine(count: int) -> None:
    with pytest.raises(UsageError, match=r"`jobs` must be in \[1, \d+\]"):
        check_num_workers("jobs", count)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_a_process_that_is_starting_does_not_receive_an_interrupt() -> None:
    code = "print('started', flush=True); input(); print('done')"
    with starting_workers():
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    process.send_signal(signal.SIGINT)
    assert process.communicate(b"\n", timeout=60)[0].split() == [b"started", b"done"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
