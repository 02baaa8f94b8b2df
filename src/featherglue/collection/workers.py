"""Worker processes that do the work on many items, each with a record file of its own.

The parent sends each worker a few keys at a time; the worker answers after each record. A worker
that dies (out of memory, killed) is started again, and its unfinished keys are done again. A key
that kills its worker twice has a record with the attribute `error`.

Workers are started as `python -c`, so that a script needs no `if __name__ == "__main__"`. The
messages are pickles with their length on standard input and output.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from featherglue.collection.records import Key, RecordWriter, failed_record, with_fingerprint
from featherglue.errors import FeatherglueError, ResourceError
from featherglue.processes import starting_workers

_CHUNK = 16  # keys that a worker has at a time
_MAX_LOSSES = 2  # of workers, at the same key
_MAX_FRUITLESS = 5  # losses in a row without a record
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LENGTH = struct.Struct("<Q")
_START = (
    "import sys; sys.path[:] = {path!r}; from featherglue.collection.workers import serve; serve()"
)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a worker reports.

    Attributes:
        key: the item whose record is written; None for a note.
        note: what the user should know, such as the loss of a worker.
    """

    key: Key | None = None
    note: str = ""


def run_workers(
    task: Any, keys: Sequence[Key], fingerprints: Mapping[Key, str], parts: Path, num_workers: int
) -> Iterator[Done]:
    """Do the work on each key in several processes.

    Args:
        task: see `Task`.
        keys: the items; neighbors in the order go to the same worker.
        fingerprints: fingerprint of each item.
        parts: folder of the record files.
        num_workers: number of processes.

    Yields:
        A report for each key as it is done, in any order, and notes.

    Raises:
        ResourceError: workers are lost again and again.
        FeatherglueError: what a worker raised.
    """
    pool = _Pool(task, fingerprints, parts, deque(_chunks(keys)))
    threads = [
        threading.Thread(target=pool.attend, args=(number,), daemon=True)
        for number in range(num_workers)
    ]
    for thread in threads:
        thread.start()
    try:
        missing = len(keys)
        while missing:
            report = pool.reports.get()
            if isinstance(report, Exception):
                raise report
            missing -= report.key is not None
            yield report
    finally:
        pool.stop()
        for thread in threads:
            thread.join()


def _chunks(keys: Sequence[Key]) -> Iterator[list[Key]]:
    for start in range(0, len(keys), _CHUNK):
        yield list(keys[start : start + _CHUNK])


class _Pool:
    """The workers and what they have to do. Each worker has a thread that attends to it."""

    def __init__(
        self, task: Any, fingerprints: Mapping[Key, str], parts: Path, chunks: deque[list[Key]]
    ) -> None:
        self.reports: queue.Queue[Done | Exception] = queue.Queue()
        self._task, self._fingerprints, self._parts = task, fingerprints, parts
        self._chunks, self._losses = chunks, dict[Key, int]()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lock, self._stopped = threading.Lock(), False

    def attend(self, number: int) -> None:
        """Start a worker, and again if it dies, until there is nothing to do."""
        try:
            fruitless = 0
            while chunk := self._next():
                left = self._serve(number, chunk)
                if left and not self._stopped:
                    fruitless = fruitless + 1 if left == chunk else 0
                    self._lost(number, left, fruitless)
        except Exception as error:  # the parent raises it
            self.reports.put(error)

    def _next(self) -> list[Key] | None:
        with self._lock:
            return None if self._stopped or not self._chunks else self._chunks.popleft()

    def _serve(self, number: int, chunk: list[Key]) -> list[Key]:
        """Have a worker do chunks until none is left. Returns the unfinished keys if it dies."""
        process = self._start(number)
        assert process.stdin is not None and process.stdout is not None
        current: list[Key] | None = chunk
        try:
            _send(process.stdin, (self._task, self._parts / f"{number}.records"))
            while current:
                _send(process.stdin, [(key, self._fingerprints[key]) for key in current])
                while current:
                    done, error = _receive(process.stdout)
                    if error is not None:
                        kind, text = error
                        raise kind.__new__(kind, text)
                    current = current[1:]
                    self.reports.put(Done(key=done))
                current = self._next()
        except (EOFError, BrokenPipeError):
            return current or []
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()
        return []

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        with self._lock:
            with starting_workers():
                process = subprocess.Popen(
                    [sys.executable, "-c", _START.format(path=sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **_ONE_THREAD},
                )
            self._processes[number] = process
            if self._stopped:
                process.kill()
        return process

    def _lost(self, number: int, left: list[Key], fruitless: int) -> None:
        """A worker died at the first of these keys."""
        code = self._processes[number].returncode
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        if fruitless >= _MAX_FRUITLESS:
            raise ResourceError(
                f"a worker process was lost {fruitless} times in a row ({reason}); use fewer "
                "`workers` if the memory is full"
            )
        self.reports.put(Done(note=f"worker {number + 1} was lost ({reason}); it starts again"))
        first = left[0]
        self._losses[first] = self._losses.get(first, 0) + 1
        if self._losses[first] >= _MAX_LOSSES:
            # Without a fingerprint: the next run tries it again.
            error = f"its worker process was lost {_MAX_LOSSES} times ({reason})"
            with RecordWriter(self._parts / f"lost-{number}.records") as writer:
                writer.append(failed_record(first, error))
            self.reports.put(Done(key=first))
            left = left[1:]
        if left:
            with self._lock:
                self._chunks.appendleft(left)

    def stop(self) -> None:
        """End the workers."""
        with self._lock:
            self._stopped = True
            for process in self._processes.values():
                if process.poll() is None:
                    process.terminate()


def serve() -> None:
    """The main function of a worker process."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    cv2.setNumThreads(1)
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the messages
    task, path = _receive(source)
    try:
        work = task.open()
        with RecordWriter(path) as writer:
            while True:
                for key, state in _receive(source):
                    writer.append(with_fingerprint(work(key), state))
                    _send(target, (key, None))
    except EOFError:  # no more work
        return
    except FeatherglueError as error:
        _send(target, (None, (type(error), str(error))))


def _send(file: Any, message: Any) -> None:
    data = pickle.dumps(message)
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def _receive(file: BinaryIO | Any) -> Any:
    prefix = file.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(prefix)
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)
